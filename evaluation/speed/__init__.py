"""How long a step of generation takes, and what bounds it."""
