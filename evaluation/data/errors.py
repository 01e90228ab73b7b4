"""What a sweep must tell apart when an evaluation fails."""


class DataError(ValueError):
    """Data of a task or corpus that cannot be had or read: a file or network to mend."""
