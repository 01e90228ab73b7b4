"""The databases that a command has read, said at its end: an answer without its source is none."""

databases: list[str] = []
