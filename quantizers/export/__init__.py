"""A model at one setting, written as a directory that other programs load."""
