"""Where a sweep computes: on GPUs where there are any, unless it says otherwise."""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress
from pathlib import Path

from orchestrator.errors import InputError


def find_device(wanted: str, executor: str) -> str:
    """`cpu` or `cuda`, for `auto`, `cpu` or `cuda` in a sweep file.

    Looks at the nodes of a running cluster; where none runs, at this machine, and starts nothing.
    Raises InputError where a GPU is asked for and none is found.
    """
    if wanted == "cpu":
        return "cpu"
    if executor == "ray":
        from orchestrator.run.cluster import has_gpu
        from orchestrator.run.connection import join_cluster

        found = has_gpu() if join_cluster() else has_usable_gpu()
    else:
        found = has_usable_gpu()
    if wanted == "cuda" and not found:
        raise InputError("compute.device: cuda asked for, but no GPU found; use auto or cpu")
    return "cuda" if found else "cpu"


def has_usable_gpu() -> bool:
    """Whether this machine has a GPU that torch can use."""
    if not count_gpus():
        return False
    import torch  # takes seconds: only where it may have something to find

    return torch.cuda.is_available()


def memory_of(device: str) -> int | None:
    """Bytes of one GPU (`cuda`), or of this machine as far as its control group lets it be used
    (`cpu`). None where there is no GPU here: a cluster's nodes are not asked."""
    if device == "cuda":
        return _gpu_memory()
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with suppress(OSError, ValueError):  # "max" is no number
        return min(machine, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return machine


def _gpu_memory() -> int | None:
    """Of the first GPU, without a context of its own."""
    if not count_gpus():
        return None
    cuda, gpu, size = ctypes.CDLL("libcuda.so.1"), ctypes.c_int(), ctypes.c_size_t()
    failed = cuda.cuDeviceGet(ctypes.byref(gpu), 0)
    return None if failed or cuda.cuDeviceTotalMem_v2(ctypes.byref(size), gpu) else size.value


def count_gpus() -> int:
    """GPUs that the CUDA driver shows this process (CUDA_VISIBLE_DEVICES counts)."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int()
    if cuda.cuInit(0) or cuda.cuDeviceGetCount(ctypes.byref(count)):
        return 0
    return count.value
