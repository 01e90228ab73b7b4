"""Compile kernel instances with g++ and run launches through them."""

from __future__ import annotations

import ctypes
import mmap
import subprocess
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from quantizers.kernels import build
from quantizers.kernels.build import Instance
from quantizers.kernels.launches import Launch
from quantizers.kernels.tuning import macros

_PAGE = mmap.PAGESIZE
_WINDOW = 1 << 16
_ORDERS = 4  # of threads, see the shim
_SHIM = Path(__file__).with_name("shim.h")
_libc = ctypes.CDLL(None, use_errno=True)


# Each sum and product is rounded, as in the kernels; the shim jumps between stacks, which fortified
# jumps refuse, and casts pointers.
_COMPILER = ["g++", "-std=c++17", "-O2", "-march=native", "-w", "-shared", "-fPIC"]
_COMPILER += ["-ffp-contract=off", "-U_FORTIFY_SOURCE", "-fno-strict-aliasing"]


def library_of(file: Path, sources: Sequence[str], code: str, arch: str = "sm_90") -> ctypes.CDLL:
    """The shim, kernel sources and C++ that calls them, written to `file` (.cpp) and compiled."""
    kernels = [(build.SOURCES / source).read_text() for source in sources]
    file.write_text("\n".join([_SHIM.read_text(), *kernels, code]))
    library = file.with_suffix(".so")
    defined = [f"-D{key}={value}" for key, value in macros(arch).items()]
    subprocess.run([*_COMPILER, *defined, str(file), "-o", str(library)], check=True)
    return ctypes.CDLL(str(library))


class Emulator:
    """Instances of one kernel family, compiled together."""

    def __init__(self, instances: list[Instance], folder: Path, arch: str = "sm_90") -> None:
        self._index = {instance: i for i, instance in enumerate(instances)}
        family = instances[0].family
        sources = "common.cuh", "lane_table.cuh", f"{family}.cu"
        launchers = [
            f'extern "C" void run_{i}(const long long* arguments, int blocks, int threads)'
            f"{{ launch({instance.name}, arguments, blocks, threads); }}"
            for i, instance in enumerate(instances)
        ]
        self._library = library_of(folder / f"{family}.cpp", sources, "\n".join(launchers), arch)
        self._shared = ctypes.c_void_p.in_dll(self._library, "shared_memory")
        self._shared_bytes = ctypes.c_ulong.in_dll(self._library, "shared_bytes")
        self._order = ctypes.c_int.in_dll(self._library, "thread_order")

    def run(self, launch: Launch) -> None:
        """Run a launch on CPU tensors, once for each order of threads: all must give the same.

        Each tensor sits before a forbidden page meanwhile: a read or write beyond its end (beyond
        its last 16 bytes for sizes in between) kills the process.
        """
        results = [self._run(launch, order) for order in range(_ORDERS)]
        for order, result in enumerate(results):
            assert result == results[0], (
                f"{launch.instance.name}: a race, seen in thread order {order}"
            )

    def _run(self, launch: Launch, order: int) -> list[bytes]:
        """What the launch leaves in its tensors, which keep it after the last order only."""
        self._order.value = order
        fenced = [_Fenced(a) if isinstance(a, Tensor) else a for a in launch.arguments.values()]
        values = [a.address if isinstance(a, _Fenced) else (a or 0) for a in fenced]
        function = getattr(self._library, f"run_{self._index[launch.instance]}")
        memory = mmap.mmap(-1, launch.shared + 2 * _WINDOW)
        self._shared.value = _fenced_shared(memory, launch.shared)
        self._shared_bytes.value = launch.shared
        function((ctypes.c_longlong * len(values))(*values), launch.blocks, launch.threads)
        tensors = [argument for argument in fenced if isinstance(argument, _Fenced)]
        if order == _ORDERS - 1:
            for tensor in tensors:
                tensor.copy_back()
        return [tensor.bytes() for tensor in tensors]


def _fenced_shared(memory: mmap.mmap, size: int) -> int:
    """Where `size` bytes of shared memory begin: 1 KiB above a multiple of 64 KiB, as on a GPU,
    with the rest of `memory` from the next page on forbidden."""
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    begin = -(-start // _WINDOW) * _WINDOW + 1024
    end = -(-(begin + size) // _PAGE) * _PAGE
    length = start + len(memory) - end
    assert _libc.mprotect(ctypes.c_void_p(end), ctypes.c_size_t(length), 0) == 0
    return begin


class _Fenced:
    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor
        # Words and constants end exactly at the fence; what vectors load begins at 16 bytes.
        align = 16 if tensor.data_ptr() % 16 == 0 and tensor.dtype != torch.int32 else 4
        size = -(-tensor.nbytes // align) * align
        pages = -(-size // _PAGE) * _PAGE
        self._memory = mmap.mmap(-1, pages + _PAGE)
        start = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        assert _libc.mprotect(ctypes.c_void_p(start + pages), _PAGE, 0) == 0
        self.address = start + pages - size
        ctypes.memmove(self.address, tensor.data_ptr(), tensor.nbytes)

    def bytes(self) -> bytes:
        return ctypes.string_at(self.address, self.tensor.nbytes)

    def copy_back(self) -> None:
        ctypes.memmove(self.tensor.data_ptr(), self.address, self.tensor.nbytes)
