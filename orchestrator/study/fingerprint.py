"""A local model or tokenizer directory in one digest: equal wherever its content is equal."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from orchestrator.errors import ModelInputError
from orchestrator.study.digests import file_digest
from quantizers.checkpoint import UnusableModel, check_folder

_BLOCK_BYTES, _BLOCKS = 1 << 20, 64
_WHOLE_BYTES = _BLOCK_BYTES * _BLOCKS
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


@dataclass(frozen=True)
class Fingerprint:
    """Digest of what decides a local model's scores, and the one earlier versions gave it: of a
    weight file beyond 64 MiB they read 64 blocks of 1 MiB, which tells trained weights apart, but
    not a change that falls between the blocks. None where both are the same."""

    digest: str
    earlier: str | None = None


def model_fingerprint(
    directory: Path, weights: str, name: str, with_tokenizer: bool = True
) -> Fingerprint:
    """Of config.json, code, weights and tokenizer, every byte of them.

    Raises ModelInputError for a directory that cannot be used (see quantizers.checkpoint).
    """
    try:
        weight_files = check_folder(directory, weights)
    except UnusableModel as error:
        raise ModelInputError(f"model {name}: {error}") from None
    others = _matching(directory, _TOKENIZER_FILES if with_tokenizer else ("*.py",))
    files = [directory / "config.json", *others, *weight_files]
    digest, earlier = _digest(files, _content), _digest(files, _blocks)
    return Fingerprint(digest, earlier if earlier != digest else None)


def tokenizer_fingerprint(directory: Path, name: str) -> str:
    """Digest of a local tokenizer's files. Raises ModelInputError for a directory without any."""
    files = _matching(directory, _TOKENIZER_FILES)
    if not files:
        raise ModelInputError(f"model {name}: tokenizer: {directory} holds no tokenizer files")
    return _digest(files, _blocks)


def _matching(directory: Path, patterns: Iterable[str]) -> list[Path]:
    return sorted({f for pattern in patterns for f in directory.glob(pattern) if f.is_file()})


def _digest(files: Iterable[Path], content: Callable[[Path], Iterable[bytes]]) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.name} {file.stat().st_size}\n".encode())
        for part in content(file):
            digest.update(part)
    return "local-" + digest.hexdigest()[:24]


def _content(file: Path) -> Iterable[bytes]:
    """A file's bytes, or of a large one their sha256, which is remembered."""
    return _blocks(file) if file.stat().st_size <= _WHOLE_BYTES else [file_digest(file)]


def _blocks(file: Path) -> Iterator[bytes]:
    """The content of a file up to 64 MiB; of a larger one blocks from its first to its last."""
    size = file.stat().st_size
    step = max(_BLOCK_BYTES, (size - _BLOCK_BYTES) / (_BLOCKS - 1))
    with file.open("rb") as stream:
        for i in range(_BLOCKS):
            stream.seek(int(i * step))
            yield stream.read(_BLOCK_BYTES)
