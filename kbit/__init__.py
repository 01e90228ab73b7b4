"""The `kbit` command."""
