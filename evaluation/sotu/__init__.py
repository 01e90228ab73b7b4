"""The embedded corpus, and the tasks that are cut from it."""
