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
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

from quantizers.kernels import tuning

SOURCES = Path(__file__).parent / "cuda"
FAMILIES = (
    "dequantize",
    "quantize",
    "gemv",
    "multiply",
    "logprob",
    "round_rows",
    "integer_product",
    "scale_sums",
)
C_TYPES = {torch.float16: "F16", torch.bfloat16: "BF16", torch.float32: "float"}

_importing = threading.Lock()  # cuda.core fails when two threads import it at once


@dataclass(frozen=True)
class Instance:
    """A kernel with its template arguments: what is compiled, cached, proven and launched."""

    family: str  # one of FAMILIES, the name of the file and of the kernel in it
    parameters: tuple[int | bool | torch.dtype, ...]  # as the template in the source has them

    @property
    def name(self) -> str:
        """As C++ writes it, for example "dequantize<3, F16, true>"."""
        return f"{self.family}<{', '.join(_in_c(value) for value in self.parameters)}>"


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


def _in_c(value: int | bool | torch.dtype) -> str:
    if isinstance(value, torch.dtype):
        return C_TYPES[value]
    return str(value).lower()  # C++'s true and false


def build(instance: Instance, arch: str) -> Binary:
    """An instance for `arch` ("sm_90"): from the disk cache, else compiled.

    Raises BuildError. A cache that cannot be written costs time, not the result.
    """
    path = cache_folder() / f"{_key(instance, arch)}.cubin"
    if (entry := _read(path)) is not None:
        return entry
    binary = compile_instances([instance], arch)[0][instance]
    with contextlib.suppress(OSError):
        _write(path, binary)
    return binary


def compile_instances(
    instances: Sequence[Instance], arch: str
) -> tuple[dict[Instance, Binary], str]:
    """Compile instances of one family in one go: (their binaries, what ptxas reports).

    Raises BuildError.
    """
    family = instances[0].family
    names = tuple(instance.name for instance in instances)
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
    symbols, code = compiled.symbol_mapping, bytes(compiled.code)
    binaries = {i: Binary(code, _text(symbols[i.name])) for i in instances}
    return binaries, log.getvalue()


def _key(instance: Instance, arch: str) -> str:
    parts = [source(instance.family), instance.name, arch, nvrtc_version(), tuning.macros(arch)]
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
