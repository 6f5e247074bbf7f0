"""The entry point that Airbyte's images expect."""

from destination_postgres.run import main

if __name__ == "__main__":
    main()
