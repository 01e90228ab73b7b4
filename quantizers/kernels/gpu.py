"""Running the CUDA kernels, each only after it has proved itself on the device at hand.

The first use of an instance in a process compiles it (or reads it from the disk cache) and runs it
on a small tensor: its result must equal that of plain torch on the same device bit for bit, for
log-probabilities, whose sums have an order of their own, within their rounding. Where a kernel
cannot be built or disagrees, it is not used, the log says why once, and every function here returns
None: the caller takes plain torch.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor

from quantizers.codebooks import integer
from quantizers.granularity import Granularity
from quantizers.kernels import build, launches, reference, tuning
from quantizers.kernels.launches import Launch, Limits
from quantizers.packed import PackedTensor, empty

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


def dequantize(q: PackedTensor) -> Tensor | None:
    if q.n == 0:
        return None
    launch, out = launches.dequantize(q)

    def check() -> bool:
        sample, _ = _sample(q, launch)
        trial, result = launches.dequantize(sample)
        result.fill_(torch.nan)
        start(trial, q.device)
        return _equal_bits(result, reference.dequantize(sample))

    return out if run(launch, q.device, check) else None


def quantize(values: Tensor, q: PackedTensor) -> bool:
    """Whether q's words have been written, with its absmax and mean given."""
    if q.n == 0:
        return False
    launch = launches.quantize(values, q, processors(q.device))

    def check() -> bool:
        sample, weights = _sample(q, launch)
        expected = sample.words.clone()
        sample.words.fill_(-1)
        start(launches.quantize(weights, sample, processors=1), q.device)
        return _equal_bits(sample.words, expected)

    return run(launch, q.device, check)


def quantize_blocks(values: Tensor, q: PackedTensor) -> bool:
    """Whether q's words and absmax have been written, in one pass over the weights. False also for
    weights that cannot be quantized (NaN, inf, overflow): the slower path finds them again and says
    which."""
    if q.n == 0:
        return False
    planned = launches.quantize_blocks(values, q, processors(q.device))
    if planned is None:
        return False
    launch, problem = planned

    def check() -> bool:
        weights = _sample_weights(q.dtype, q.device)
        trial = empty(weights, integer(q.bits), q.bits, Granularity(64))
        expected = empty(weights, integer(q.bits), q.bits, Granularity(64))
        rows = torch.nn.functional.pad(weights, (0, 24)).view(-1, 64)  # 1000 + 24 = 16 x 64
        expected.absmax.copy_(rows.abs().amax(1))
        reference.quantize(weights, expected)
        trial_planned = launches.quantize_blocks(weights, trial, processors=1)
        assert trial_planned is not None
        start(trial_planned[0], q.device)
        same = _equal_bits(trial.words, expected.words)
        return same and _equal_bits(trial.absmax, expected.absmax) and int(trial_planned[1]) == 0

    return run(launch, q.device, check) and int(problem) == 0


def multiply(x: Tensor, q: PackedTensor, bias: Tensor | None) -> Tensor | None:
    """Few rows of x at a time; None above the crossover, and for what the kernels do not cover."""
    if len(x) > tuning.most_fused_rows(q.bits, q.n):
        return None
    parts = []
    for rows in x.split(tuning.MULTIPLY_ROWS):
        if (y := multiply_at_once(rows, q, bias)) is None:
            return None
        parts.append(y)
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def multiply_at_once(x: Tensor, q: PackedTensor, bias: Tensor | None) -> Tensor | None:
    """At most MOST_MULTIPLY_ROWS rows of x by one launch."""
    available = limits(x.device)
    for plan in (launches.gemv, launches.multiply):
        plan = partial(plan, limits=available)
        planned = plan(x, q, bias)
        if planned is not None:
            launch, y = planned
            if run(launch, x.device, partial(_proves_product, plan, x, q)):
                return y
    return None


def _proves_product(plan: Callable[..., Any], x: Tensor, q: PackedTensor) -> bool:
    """Rows of the identity give columns of the dequantized matrix, bit for bit."""
    m, d_in, d_out = len(x), 2 * launches.FUSED_COLUMNS, 40
    values = torch.linspace(-1, 1, d_out * d_in, device=x.device).to(x.dtype).view(d_out, d_in)
    blocks = Granularity(16 if q.blocks.size == 16 else 64)
    sample = empty(values, integer(q.bits), q.bits, blocks)
    sample.absmax.copy_(torch.linspace(0.1, 2, sample.absmax.numel(), device=x.device))
    reference.quantize(values.flatten(), sample)
    weights = reference.dequantize(sample).view(d_out, d_in)
    for first in (5, 100, 250):
        columns = (torch.arange(m, device=x.device) * 37 + first) % d_in
        chosen = torch.nn.functional.one_hot(columns, d_in).to(x.dtype)
        launch, y = plan(chosen, sample, None)
        y.fill_(torch.nan)
        start(launch, x.device)
        if not torch.equal(y, weights.T[columns]):
            return False
    return True


def token_logprobs(
    logits: Tensor, targets: Tensor, greedy: bool
) -> tuple[Tensor, Tensor | None] | None:
    device = logits.device
    planned = launches.token_logprobs(logits, targets, greedy)
    if planned is None:
        return None
    launch, logprobs, flags = planned

    def check() -> bool:
        """Other sums than torch's: close, not the same bits."""
        sample, targets = _sample_logits(logits.dtype, device)
        trial = launches.token_logprobs(sample, targets, greedy=True)
        assert trial is not None and trial[2] is not None
        trial[1].fill_(1)
        start(trial[0], device)
        close, likeliest = reference.token_logprobs(sample, targets, greedy=True)
        assert likeliest is not None
        near = torch.allclose(trial[1], close, rtol=1e-6, atol=1e-5, equal_nan=True)
        return near and torch.equal(trial[2], likeliest)

    return (logprobs, flags) if run(launch, device, check) else None


def _sample_logits(dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """(logits, targets) of rows of an odd length: plain ones, two alike, infinities, NaN."""
    rows = torch.sin(torch.arange(8 * 4099, device=device) * 0.7).view(8, 4099) * 9
    rows[2:4, [70, 4000]] = 11
    rows[4:6, 33:4000] = -torch.inf
    rows[6, 5], rows[7, 4098] = torch.nan, torch.inf
    targets = [int(rows[0].argmax()), 4098, 70, 4000, 33, 4001, 5, 4098]
    return rows.to(dtype), torch.tensor(targets, device=device)


def _sample_weights(dtype: torch.dtype, device: torch.device) -> Tensor:
    """1000 weights: a short last group, warp, tile and block."""
    return (torch.linspace(-3, 3, 1000, device=device) ** 3).to(dtype)


def _sample(q: PackedTensor, launch: Launch) -> tuple[PackedTensor, Tensor]:
    """(packed, weights) of 20 rows, centered, for the instance that q takes."""
    weights = _sample_weights(q.dtype, q.device)
    fast = launch.instance.parameters[-1]
    blocks = Granularity(64) if fast else Granularity(7, by_row=True)
    sample = empty(weights.view(20, 50), integer(q.bits), q.bits, blocks, centered=True)
    assert sample.mean is not None
    sample.absmax.copy_(torch.linspace(0, 30, sample.absmax.numel(), device=q.device))
    sample.mean.copy_(torch.linspace(-0.5, 0.5, sample.mean.numel(), device=q.device))
    reference.quantize(weights, sample)
    return sample, weights


def _equal_bits(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and torch.equal(a.view(torch.uint8), b.view(torch.uint8))


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
