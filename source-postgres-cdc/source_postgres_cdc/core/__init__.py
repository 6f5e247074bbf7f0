"""The wire-level core: bytes and text in, finished JSON lines out. No connection, no clock, no log."""
