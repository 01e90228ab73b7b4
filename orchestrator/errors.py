"""The one error class for input a user can correct."""


class InputError(ValueError):
    """Bad input: one line that says what is wrong, where, and what to do. Exit code 2."""


class ModelInputError(InputError):
    """One model of a study cannot be used (missing or truncated weights); the others can."""


class SweepStopped(RuntimeError):
    """A sweep cannot go on (cluster or database gone). What is stored stays. Exit code 3."""
