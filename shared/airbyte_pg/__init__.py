"""What source-postgres-cdc and destination-postgres share. Knows neither of them."""

__version__ = "0.1.0"
