"""Whether a file can be read as GGUF at all. Torch-free: a mistake is said at once."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from quantizers.checkpoint import UnusableModel


def check_gguf(file: Path) -> None:
    """Raises UnusableModel for a file that is not there or is none, and without the package that
    reads them."""
    if file.is_dir():
        raise UnusableModel(f"{file} is a folder: name a .gguf file in it")
    if not file.is_file():
        raise UnusableModel(f"{file}: no such file")
    with file.open("rb") as stream:
        if stream.read(4) != b"GGUF":
            raise UnusableModel(f"{file} is not a GGUF file")
    check_package()


def check_package() -> None:
    """Raises UnusableModel without the package that reads and writes GGUF."""
    if find_spec("gguf") is None:
        raise UnusableModel("GGUF needs the package gguf: pip install 'kbit-scaling[gguf]'")
