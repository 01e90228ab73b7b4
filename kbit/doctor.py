"""`kbit doctor`: what the kernels found on this machine, and why a path is not taken."""

from __future__ import annotations

import argparse
import os
from importlib.metadata import PackageNotFoundError, version

import pandas as pd

from kbit.output import add_format, print_frame

EXAMPLE = "example: kbit doctor --format json"
OK, PROBLEM = "ok", "problem"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_format(parser)


def run(args: argparse.Namespace) -> int:
    findings = [
        *_packages(),
        _driver(),
        *_devices(),
        _nvrtc(),
        _cache(),
        _cpu_path(),
        *_integers(),
        *_kernels(),
    ]
    frame = pd.DataFrame(findings, columns=["what", "state", "found"])
    print_frame(frame, args.format)
    return 1 if frame.loc[frame["what"] == "CPU path", "state"].eq(PROBLEM).any() else 0


Finding = tuple[str, str, str]  # what, OK or PROBLEM or "none", what was found


def _packages() -> list[Finding]:
    found = []
    for name in ("torch", "numba", "cuda-core", "cuda-bindings", "nvidia-cuda-nvrtc"):
        try:
            found.append((name, OK, version(name)))
        except PackageNotFoundError:
            found.append((name, "none", "not installed"))
    return found


def _driver() -> Finding:
    import torch

    if torch.version.cuda is None:
        return "driver", "none", f"torch {torch.__version__} is a build without CUDA"
    try:
        from cuda.bindings import driver

        error, number = driver.cuDriverGetVersion()
    except (ImportError, RuntimeError, OSError) as problem:
        return "driver", "none", str(problem).splitlines()[0]
    if int(error) != 0:
        return "driver", "none", str(error)
    needs = f"torch was built for CUDA {torch.version.cuda}"
    return "driver", OK, f"CUDA {number // 1000}.{number % 1000 // 10}; {needs}"


def _devices() -> list[Finding]:
    import torch

    if not torch.cuda.is_available():
        return [("device", "none", "no CUDA device; everything runs on the CPU path")]
    found = []
    for i in range(torch.cuda.device_count()):
        device = torch.cuda.get_device_properties(i)
        memory = f"{device.total_memory / 2**30:.0f} GiB"
        found.append(
            (f"device {i}", OK, f"{device.name}, sm_{device.major}{device.minor}, {memory}")
        )
    return found


def _nvrtc() -> Finding:
    """It compiles a kernel for an architecture, which takes no device."""
    import torch

    from quantizers.kernels import build
    from quantizers.kernels.build import Instance

    try:
        build.compile_instances([Instance("dequantize", (4, torch.float16, True))], "sm_90")
        return "NVRTC", OK, f"{build.nvrtc_version()}, compiles the kernels"
    except build.BuildError as error:
        return "NVRTC", PROBLEM, str(error)


def _cache() -> Finding:
    from quantizers.kernels.build import cache_folder

    folder = cache_folder()
    existing = next(f for f in (folder, *folder.parents) if f.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        return "cache", PROBLEM, f"{folder} cannot be written: kernels are built in every process"
    entries = list(folder.glob("*.cubin"))
    size = sum(entry.stat().st_size for entry in entries)
    return "cache", OK, f"{folder}: {len(entries)} kernels, {size / 1024:.0f} KiB"


def _cpu_path() -> Finding:
    import torch

    from quantizers.blockwise import quantize
    from quantizers.codebooks import integer
    from quantizers.granularity import Granularity
    from quantizers.kernels import cpu, reference

    x = torch.linspace(-1, 1, 1000)
    try:
        q = quantize(x, integer(4), 4, Granularity(64))
        words = q.words.clone()
        reference.quantize(x, q)
        same = torch.equal(words, q.words)
        same &= torch.equal(cpu.dequantize(q), reference.dequantize(q))
        decoder = cpu.decoder_name()
    except Exception as error:  # Numba fails in many ways; this command is to say so
        return "CPU path", PROBLEM, f"{type(error).__name__}: {str(error).splitlines()[0]}"
    if not same:
        return "CPU path", PROBLEM, "compiled loops and plain torch disagree"
    threads = torch.get_num_threads()
    return (
        "CPU path",
        OK,
        f"compiled loops agree with plain torch; {threads} threads; decodes by {decoder}",
    )


def _integers() -> list[Finding]:
    """What computes products of rounded activations: integer instructions, or why they do not."""
    import torch

    from quantizers.kernels import cpu_integers, cpu_tile, measured
    from quantizers.kernels.integer_products import library_unsupported

    why = cpu_integers.unsupported()
    state = (OK, f"by {cpu_tile.instructions()}, exact")
    if why is not None:
        state = (PROBLEM, f"fp32 products of whole numbers: {why}")
    found = [("int8 on the CPU", *state)]
    if torch.cuda.is_available():
        why = library_unsupported(torch.device("cuda", 0))
        device = torch.device("cuda", 0)
        how = "measured on this device" if measured.of_device(device) else "not measured on it"
        state = (OK, f"exact; from {measured.library_tokens(device)} rows on, {how}")
        if why is not None:
            state = (PROBLEM, f"our kernel takes all rows: {why}")
        found.append(("int8 by cuBLASLt", *state))
    return found


def _kernels() -> list[Finding]:
    """Each family on the first device at 4 bit, integers at 8: it works, or why plain torch runs
    instead."""
    import torch

    from quantizers.kernels import build, gpu, proving

    if not torch.cuda.is_available():
        reason = str(proving.unsupported(torch.device("cuda", 0)))
        return [(f"kernel {family}", "none", f"not used: {reason}") for family in build.FAMILIES]
    from quantizers.blockwise import dequantize, quantize
    from quantizers.codebooks import integer
    from quantizers.granularity import Granularity
    from quantizers.integers import Codes, IntegerWeight
    from quantizers.kernels import integer_product, measured, round_rows

    weight = torch.linspace(-1, 1, 128 * 128, device="cuda").half().view(128, 128)
    q = quantize(weight, integer(4), 4, Granularity(64))
    dequantize(q)
    for rows in (1, 2):
        gpu.multiply(weight[:rows], q, None)
    gpu.token_logprobs(weight, torch.arange(128, device="cuda"), greedy=True)
    many = -(-measured.library_tokens(weight.device) // 128)
    codes = round_rows(weight.repeat(many, 1), 127)
    integers = IntegerWeight(codes.values[:128], codes.scale[:128], 128, 127)
    for rows in (1, len(codes.values)):
        few = Codes(codes.values[:rows], codes.scale[:rows], 127)
        integer_product(few, integers, None, torch.half)
    found = []
    for family in build.FAMILIES:
        failed = (why for name, why in proving.failures().items() if name.startswith(family))
        if why := next(failed, None):
            state = PROBLEM, f"not used: {why}"
        elif any(name.startswith(family) for name in proving.proven()):
            state = OK, "agrees with plain torch on this device"
        else:
            state = "none", "not used: the device has too little shared memory for it"
        found.append((f"kernel {family}", *state))
    return found
