"""`make demo`: live data moves from one PostgreSQL server to another while it changes."""
