"""The entry point that Airbyte's images expect."""

from source_postgres_cdc.run import main

if __name__ == "__main__":
    main()
