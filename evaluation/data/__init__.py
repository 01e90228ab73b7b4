"""Data of tasks and corpora: local files, the hub, and what is kept of both."""
