"""CUDA source to machine code, by NVRTC at first use, kept on disk. Needs no GPU and no compiler.

A cache entry is one kernel instance: its file name is the hash of all that its bytes depend on.
Entries are written to a temporary file and renamed, so that processes which build the same one at
the same time see nothing, or all of it. An entry that does not match its own checksum is rebuilt.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import tempfile
import threading
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

from quantizers.kernels import tuning

SOURCES = Path(__file__).parent / "cuda"
FAMILIES = ("dequantize", "quantize", "gemv", "multiply", "logprob")
C_TYPES = {torch.float16: "F16", torch.bfloat16: "BF16", torch.float32: "float"}

_importing = threading.Lock()  # cuda.core fails when two threads import it at once


@dataclass(frozen=True)
class Binary:
    """A compiled kernel instance."""

    code: bytes  # a cubin
    symbol: str  # the mangled name of the kernel in it


class BuildError(RuntimeError):
    """A kernel cannot be built here; the message says why in one line."""


def source(family: str) -> str:
    """The whole source of a kernel family: nothing is included from elsewhere."""
    parts = ("instructions.cuh", "common.cuh", "lane_table.cuh", f"{family}.cu")
    return "\n".join((SOURCES / part).read_text() for part in parts)


def dequantize_name(bits: int, dtype: torch.dtype, whole_groups: bool) -> str:
    return f"dequantize<{bits}, {C_TYPES[dtype]}, {_bool(whole_groups)}>"


def quantize_name(bits: int, dtype: torch.dtype, one_pass: bool) -> str:
    return f"quantize<{bits}, {C_TYPES[dtype]}, {_bool(one_pass)}>"


def gemv_name(bits: int, dtype: torch.dtype) -> str:
    return f"gemv<{bits}, {C_TYPES[dtype]}>"


def multiply_name(bits: int, dtype: torch.dtype, x_tiles: int, chunks: int, fine: bool) -> str:
    return f"multiply<{bits}, {C_TYPES[dtype]}, {x_tiles}, {chunks}, {_bool(fine)}>"


def logprob_name(dtype: torch.dtype) -> str:
    return f"logprob<{C_TYPES[dtype]}>"


def _bool(value: bool) -> str:
    return "true" if value else "false"


def cache_folder() -> Path:
    """$KBIT_CACHE, else the user's cache folder: `kbit/kernels` in it."""
    if configured := os.environ.get("KBIT_CACHE"):
        return Path(configured).expanduser().absolute() / "kernels"
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "kbit" / "kernels"


@cache
def nvrtc_version() -> str:
    """For example "13.0". Raises BuildError when NVRTC or its Python binding is not there."""
    try:
        from cuda.bindings import nvrtc

        error, major, minor = nvrtc.nvrtcVersion()
    except (ImportError, RuntimeError, OSError) as problem:
        raise BuildError(f"NVRTC is not usable: {_one_line(problem)}") from None
    if int(error) != 0:
        raise BuildError(f"NVRTC is not usable: {error}")
    return f"{major}.{minor}"


def build(family: str, name: str, arch: str) -> Binary:
    """The instance `name` of a family for `arch` ("sm_90"): from the disk cache, else compiled.

    Raises BuildError. A cache that cannot be written costs time, not the result.
    """
    path = cache_folder() / f"{_key(family, name, arch)}.cubin"
    if (entry := _read(path)) is not None:
        return entry
    binary = compile_instances(family, (name,), arch)[0][name]
    with contextlib.suppress(OSError):
        _write(path, binary)
    return binary


def compile_instances(
    family: str, names: tuple[str, ...], arch: str
) -> tuple[dict[str, Binary], str]:
    """Compile instances in one go: (binary by name, what ptxas reports). Raises BuildError."""
    nvrtc_version()  # a clearer error than cuda-core's, and first
    try:
        with _importing:
            from cuda.core import Program, ProgramOptions
        options = ProgramOptions(
            std="c++17",
            arch=arch,
            define_macro=[(key, str(value)) for key, value in tuning.macros(arch).items()],
            ptxas_options=["-v"],
        )
        log = io.StringIO()
        compiled = Program(source(family), code_type="c++", options=options).compile(
            "cubin", name_expressions=names, logs=log
        )
    except Exception as error:  # cuda-core has no error class of its own
        raise BuildError(f"{family} does not compile for {arch}: {_one_line(error)}") from error
    symbols = {name: _text(compiled.symbol_mapping[name]) for name in names}
    code = bytes(compiled.code)
    return {name: Binary(code, symbols[name]) for name in names}, log.getvalue()


def _key(family: str, name: str, arch: str) -> str:
    parts = [source(family), name, arch, nvrtc_version(), tuning.macros(arch)]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _write(path: Path, binary: Binary) -> None:
    """One header line of JSON, then the machine code."""
    digest = hashlib.sha256(binary.symbol.encode() + binary.code).hexdigest()
    header = json.dumps({"symbol": binary.symbol, "sha256": digest})
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(header.encode() + b"\n" + binary.code)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _read(path: Path) -> Binary | None:
    """The entry, or None when there is none or it is damaged."""
    try:
        header, _, code = path.read_bytes().partition(b"\n")
        fields = json.loads(header)
        symbol = fields["symbol"]
        if hashlib.sha256(symbol.encode() + code).hexdigest() != fields["sha256"]:
            return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return Binary(code, symbol)


def _text(symbol: bytes | str) -> str:
    return symbol.decode() if isinstance(symbol, bytes) else symbol


def _one_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if "error" in line.lower()]
    return (lines or [line for line in str(error).splitlines() if line.strip()] or [repr(error)])[0]
