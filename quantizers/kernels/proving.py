"""CUDA kernels, each used only after it has proved itself on the device at hand.

The first use of an instance in a process compiles it (or reads it from the disk cache) and runs it
on a small tensor: its result must be that of plain torch on the same device, as the caller's check
has it. Where a kernel cannot be built or disagrees, it is not used, and the log says why once.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from quantizers.kernels import build, tuning
from quantizers.kernels.launches import Launch, Limits

log = logging.getLogger(__name__)

OLDEST = (8, 0)  # compute capability with bf16 conversions and tensor-core products

_kernels: dict[tuple[str, int], Any] = {}  # (instance, device) -> kernel, or why it is not used
_lock = threading.RLock()


def unsupported(device: torch.device) -> str | None:
    """Why no kernel can run on a CUDA device; None if nothing is known against it."""
    if not torch.cuda.is_available():
        return "torch sees no CUDA device"
    capability = torch.cuda.get_device_capability(device)
    if capability < OLDEST:
        return (
            f"compute capability {capability[0]}.{capability[1]} is below {OLDEST[0]}.{OLDEST[1]}"
        )
    try:
        build.nvrtc_version()
    except build.BuildError as error:
        return str(error)
    return None


def failures() -> dict[str, str]:
    """The kernel instances that were tried in this process and are not used, and why."""
    with _lock:
        return {name: why for (name, _), why in _kernels.items() if isinstance(why, str)}


def proven() -> set[str]:
    """The kernel instances that proved themselves in this process."""
    with _lock:
        return {name for (name, _), kernel in _kernels.items() if not isinstance(kernel, str)}


def run(launch: Launch, device: torch.device, check: Callable[[], bool]) -> bool:
    """Start a launch whose kernel has proved itself; False if it cannot be used."""
    key = launch.instance.name, device.index or 0
    with _lock:
        if key not in _kernels:
            _kernels[key] = _prove(launch, device, check)
            if isinstance(_kernels[key], str):
                log.warning("%s is not used, plain torch is: %s", key[0], _kernels[key])
        usable = not isinstance(_kernels[key], str)
    if usable:
        start(launch, device)
    return usable


def _prove(launch: Launch, device: torch.device, check: Callable[[], bool]) -> Any:
    """The kernel, or the reason not to use it."""
    if (reason := unsupported(device)) is not None:
        return reason
    key = launch.instance.name, device.index or 0
    try:
        _kernels[key] = _load(launch, device)
        good = check()
    except Exception as error:  # whatever it is, plain torch still works
        return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    return _kernels[key] if good else "its result differs from plain torch on this device"


def _load(launch: Launch, device: torch.device) -> Any:
    from cuda.core import Device, ObjectCode

    major, minor = torch.cuda.get_device_capability(device)
    name = launch.instance.name
    binary = build.build(launch.instance, f"sm_{major}{minor}")
    with torch.cuda.device(device):
        Device(device.index or 0).set_current()
        symbols = {name: binary.symbol.encode()}  # as `Program.compile` gives them
        code = ObjectCode.from_cubin(binary.code, symbol_mapping=symbols)
        kernel = code.get_kernel(name)
        if launch.shared:
            _allow_shared(kernel, device)
        return kernel


def _allow_shared(kernel: Any, device: torch.device) -> None:
    """Dynamic shared memory beyond 48 KiB needs permission. Raises RuntimeError if refused."""
    from cuda.bindings import driver

    most = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
    (error,) = driver.cuKernelSetAttribute(
        most, limits(device).shared, kernel.handle, driver.CUdevice(device.index or 0)
    )
    if error != driver.CUresult.CUDA_SUCCESS:
        raise RuntimeError(f"no {limits(device).shared} bytes of shared memory: {error}")


def start(launch: Launch, device: torch.device) -> None:
    """Enqueue a launch on the current stream. Its kernel must have proved itself."""
    from cuda.core import Device
    from cuda.core import launch as enqueue

    arguments = [
        a.data_ptr() if isinstance(a, Tensor) else (0 if a is None else a)
        for a in launch.arguments.values()
    ]
    with torch.cuda.device(device):
        Device(device.index or 0).set_current()
        enqueue(
            _stream(torch.cuda.current_stream(device).cuda_stream),
            _config(launch.blocks, launch.threads, launch.shared),
            _kernels[launch.instance.name, device.index or 0],
            *arguments,
        )


@lru_cache(maxsize=64)
def _stream(handle: int) -> Any:
    from cuda.core import Stream

    return Stream.from_handle(handle)


@lru_cache(maxsize=1024)
def _config(blocks: int, threads: int, shared: int) -> Any:
    from cuda.core import LaunchConfig

    return LaunchConfig(grid=blocks, block=threads, shmem_size=shared)


def processors(device: torch.device) -> int:
    """Multiprocessors of a device."""
    return torch.cuda.get_device_properties(device).multi_processor_count


def limits(device: torch.device) -> Limits:
    """What the products with packed weights may take of a device."""
    properties: Any = torch.cuda.get_device_properties(device)
    arch = f"sm_{properties.major}{properties.minor}"
    return Limits(
        properties.multi_processor_count,
        properties.shared_memory_per_block_optin,
        tuning.gemv_threads(arch),
        tuning.byte_tables(arch),
    )
