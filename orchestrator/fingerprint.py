"""A local model or tokenizer directory in one digest: equal wherever its content is equal."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from orchestrator.errors import ModelInputError
from quantizers.checkpoint import UnusableModel, check_folder

_BLOCK_BYTES, _BLOCKS = 1 << 20, 64
# Python files are code that comes with a model; it runs with `trust_remote_code` alone.
_TOKENIZER_FILES = (
    "tokenizer*",
    "vocab*",
    "merges.txt",
    "*.model",
    "*.tiktoken",
    "added_tokens.json",
    "special_tokens_map.json",
    "*.py",
)


def model_fingerprint(directory: Path, weights: str, name: str, with_tokenizer: bool = True) -> str:
    """Digest of what decides a local model's scores: config.json, code, weights and tokenizer.

    Of a weight file beyond 64 MiB it reads 64 blocks of 1 MiB, evenly spread: that tells trained
    weights apart without reading hundreds of gigabytes, but not a change that falls between them.
    Raises ModelInputError for a directory that cannot be used (see quantizers.checkpoint).
    """
    try:
        files = check_folder(directory, weights)
    except UnusableModel as error:
        raise ModelInputError(f"model {name}: {error}") from None
    others = _matching(directory, _TOKENIZER_FILES if with_tokenizer else ("*.py",))
    return _digest([directory / "config.json", *others, *files])


def tokenizer_fingerprint(directory: Path, name: str) -> str:
    """Digest of a local tokenizer's files. Raises ModelInputError for a directory without any."""
    files = _matching(directory, _TOKENIZER_FILES)
    if not files:
        raise ModelInputError(f"model {name}: tokenizer: {directory} holds no tokenizer files")
    return _digest(files)


def _matching(directory: Path, patterns: Iterable[str]) -> list[Path]:
    return sorted({f for pattern in patterns for f in directory.glob(pattern) if f.is_file()})


def _digest(files: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.name} {file.stat().st_size}\n".encode())
        for block in _blocks(file):
            digest.update(block)
    return "local-" + digest.hexdigest()[:24]


def _blocks(file: Path) -> Iterator[bytes]:
    """The content of a file; of a large one blocks from its first to its last byte."""
    size = file.stat().st_size
    step = max(_BLOCK_BYTES, (size - _BLOCK_BYTES) / (_BLOCKS - 1))
    with file.open("rb") as stream:
        for i in range(_BLOCKS):
            stream.seek(int(i * step))
            yield stream.read(_BLOCK_BYTES)
