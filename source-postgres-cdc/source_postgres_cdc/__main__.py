"""``python -m source_postgres_cdc``."""

from source_postgres_cdc.run import main

main()
