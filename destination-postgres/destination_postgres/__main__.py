"""``python -m destination_postgres``."""

from destination_postgres.run import main

main()
