"""Where a sweep computes: on GPUs where there are any, unless it says otherwise."""

from __future__ import annotations

import ctypes

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
