"""What ends a command with one line: input to correct, or a cluster or database that is gone."""


class InputError(ValueError):
    """Bad input: one line that says what is wrong, where, and what to do. Exit code 2."""


class ModelInputError(InputError):
    """One model of a study cannot be used (missing or truncated weights); the others can."""


class SweepStopped(RuntimeError):
    """Cluster or database gone: nothing can go on. What is stored stays. Exit code 3."""


class Rescued(SweepStopped):
    """The database's file is gone: the message says where its results are and what to do."""
