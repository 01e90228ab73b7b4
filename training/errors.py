"""How training ends early. Torch-free: who only asks for runs need not load it."""


class Diverged(ArithmeticError):
    """A loss or gradient that is no number: a result of the recipe, not a fault."""


class DiskFull(OSError):
    """A file could not be written; the last good checkpoint is still there."""
