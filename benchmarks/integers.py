"""How fast linear layers of integers are, W8A8 and W4A8, rounding of x included, in one run.

    python benchmarks/integers.py [--json FILE]

Without a GPU: beside the fp32 product, oneDNN's dynamic int8 linear (torch.ops.quantized) and
torchao's where it is installed; once more as compiled for a CPU with AVX2 alone, which has no
integer dot products (a process of its own, whose fp32 product is not held back); and what laying
the weights out takes, once a setting. With one: beside cuBLAS fp16, cold caches, our kernel and
cuBLASLt's product apart on either side of the crossover, which is kept for the device; beside
humming-kernels where it is installed, and Marlin's published ratios. Every figure is a median; on a
CPU of the process's seconds on all cores, which a busy machine changes less than the clock's.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.integer_peers import MARLIN, humming, onednn, torchao
from benchmarks.kernels import Case, Report, copies, device_seconds, warm_up
from quantizers.activations.products import integer_weight, packed_integers
from quantizers.integers import IntegerWeight, PackedIntegers
from quantizers.kernels import (
    cpu_integers,
    cpu_tile,
    integer_gpu,
    integer_product,
    integer_products,
    measured,
    proving,
    round_rows,
)
from quantizers.outliers import quantize_matrix
from quantizers.setting import Setting

CPU_SIDES = (1024, 2048)
CPU_TOKENS = (1, 16, 256)
GPU_SIDES = (4096, 8192)
GPU_TOKENS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
FORMATS = {"W8A8 row": (8, "row"), "W4A8 group 128": (4, {"group": 128}), "W4A8 row": (4, "row")}
BY_BOTH = "W8A8 row"  # the format that our kernel and cuBLASLt both take
Weight = IntegerWeight | PackedIntegers
AVX2 = {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": "+avx2,+fma"}


def weights(side: int, device: str) -> dict[str, Weight]:
    """A square matrix in each format; 4 bit packed on a GPU, as int8 on a CPU, as in scoring."""
    weight = torch.randn(side, side, generator=torch.Generator().manual_seed(0)).mul(0.02).half()
    found: dict[str, Weight] = {}
    for name, (bits, block) in FORMATS.items():
        packed = quantize_matrix(weight.to(device), Setting.make(bits, "int", block_size=block))
        make = packed_integers if bits == 4 and device == "cuda" else integer_weight
        made = make(packed, "int")
        assert made is not None
        found[name] = made
    return found


def linear(x: Tensor, w: Weight) -> Tensor:
    return integer_product(round_rows(x, 127), w, None, x.dtype)


# --- CPU ---


def core_seconds(cases: Sequence[Case], rounds: int = 9) -> list[float]:
    """Median of the process's seconds on all cores that a call takes, cases in turns."""
    taken: list[list[float]] = [[] for _ in cases]
    for case in cases:
        case()
    for _ in range(rounds):
        for case, times in zip(cases, taken, strict=True):
            for _ in range(3):
                started = time.process_time()
                case()
                times.append(time.process_time() - started)
    return [statistics.median(times) for times in taken]


def cpu_table(report: Report, suffix: str) -> None:
    for side in CPU_SIDES:
        made = weights(side, "cpu")
        full = torch.randn(side, side).mul(0.02)
        peers = {"oneDNN dynamic int8": onednn(full), "torchao int8": torchao(full)}
        for tokens in CPU_TOKENS:
            x = torch.randn(tokens, side)
            cases: dict[str, Case] = {"fp32 product": partial(torch.nn.functional.linear, x, full)}
            cases |= {name: partial(peer, x) for name, peer in peers.items() if peer is not None}
            cases |= {name: partial(linear, x, w) for name, w in made.items()}
            with torch.inference_mode():
                taken = dict(zip(cases, core_seconds([*cases.values()]), strict=True))
            for name in made:
                for peer in ("fp32 product", *peers):
                    if peer in taken:
                        case = f"{name}{suffix} M={tokens} {side}x{side}"
                        report.add_time(case, taken[name], peer, taken[peer])
        whole = partial(_laid_out, made["W8A8 row"])
        product = partial(torch.nn.functional.linear, torch.randn(256, side), full)
        once, peer_time = core_seconds([whole, product])
        case = f"lay weights out once{suffix} {side}x{side}"
        report.add_time(case, once, "fp32 product M=256", peer_time)


def _laid_out(w: Weight) -> None:
    assert isinstance(w, IntegerWeight)
    fresh = IntegerWeight(w.values, w.scales, w.group, w.limit)
    assert fresh.tiles.numel() and fresh.scales_of_panels.numel()


def without_dot_products(report: Report) -> None:
    """The table of a CPU with AVX2 alone, from a process that compiles for one."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "records.json"
        command = [sys.executable, __file__, "--suffix", ", AVX2 alone", "--json", str(file)]
        given = {**os.environ, **AVX2, "NUMBA_CACHE_DIR": folder}
        subprocess.run(command, env=given, check=True)
        report.records += json.loads(file.read_text())


# --- GPU ---


def crossover_table(report: Report) -> None:
    """Our kernel and cuBLASLt's product apart, where both can: it comes first, since it decides."""
    for side in GPU_SIDES:
        warm_up()
        w, full = weights(side, "cuda")[BY_BOTH], torch.randn(side, side, device="cuda").half()
        for tokens in GPU_TOKENS:
            x = torch.randn(tokens, side, device="cuda").half()
            _apart(report, f"{BY_BOTH} M={tokens} {side}x{side}", (x, w), _cublas(x, full))


def gpu_table(report: Report) -> None:
    """All formats, rounding included, and our kernel apart."""
    for side in GPU_SIDES:
        warm_up()
        made, full = weights(side, "cuda"), torch.randn(side, side, device="cuda").half()
        peers = {
            "W8A8 row": humming(full, 8, 0),
            "W4A8 group 128": humming(full, 4, 128),
            "W4A8 row": humming(full, 4, 0),
        }
        for tokens in GPU_TOKENS:
            x = torch.randn(tokens, side, device="cuda").half()
            cublas = _cublas(x, full)
            rounding = device_seconds([partial(round_rows, x, 127)] * 4)
            report.add_time(f"round M={tokens} {side}", rounding, "cuBLAS fp16", cublas)
            for name, w in made.items():
                case = f"{name} M={tokens} {side}x{side}"
                if name != BY_BOTH:
                    _apart(report, case, (x, w), cublas)
                taken = device_seconds([partial(linear, x, c) for c in _cold(w)])
                report.add_time(f"{case}, with rounding", taken, "cuBLAS fp16", cublas)
                if (peer := peers[name]) is not None:
                    theirs = device_seconds([partial(peer, x)] * copies(full.nbytes))
                    report.add_time(f"{case}, with rounding", taken, "humming-kernels", theirs)
                if side == 8192 and name == "W4A8 group 128" and tokens in MARLIN:
                    ratio = MARLIN[tokens]
                    report.add(case, "published ratio", ratio, "x cuBLAS", "Marlin, H200", ratio)


def _cublas(x: Tensor, full: Tensor) -> float:
    cold = [full.clone() for _ in range(copies(full.nbytes))]
    return device_seconds([partial(torch.nn.functional.linear, x, w) for w in cold])


def _apart(report: Report, case: str, operands: tuple[Tensor, Weight], cublas: float) -> None:
    x, w = operands
    codes, cold = round_rows(x, 127), _cold(w)
    if integer_gpu.kernel_product(codes, w, None, x.dtype) is not None:
        kernel = [partial(integer_gpu.kernel_product, codes, c, None, x.dtype) for c in cold]
        report.add_time(f"{case}, kernel", device_seconds(kernel), "cuBLAS fp16", cublas)
    whole = isinstance(w, IntegerWeight) and integer_products.library_takes(codes.values, w.values)
    if whole and integer_gpu.library_product(codes, w, None, x.dtype) is not None:
        library = [partial(integer_gpu.library_product, codes, c, None, x.dtype) for c in cold]
        report.add_time(f"{case}, cuBLASLt", device_seconds(library), "cuBLAS fp16", cublas)


def _cold(w: Weight) -> list[Weight]:
    """Copies, together more than the cache holds."""
    name = "words" if isinstance(w, PackedIntegers) else "values"
    held, scales = getattr(w, name), w.scales
    many = range(copies(held.nbytes))
    return [replace(w, **{name: held.clone(), "scales": scales.clone()}) for _ in many]


def crossover(report: Report) -> int | None:
    """The fewest rows from which cuBLASLt is the faster of the two at every size, as measured."""
    times = {record["case"]: record["value"] for record in report.records}
    slower = [
        tokens
        for tokens in GPU_TOKENS
        for side in GPU_SIDES
        if (library := times.get(f"{BY_BOTH} M={tokens} {side}x{side}, cuBLASLt")) is None
        or library > times.get(f"{BY_BOTH} M={tokens} {side}x{side}, kernel", 0.0)
    ]
    return next((t for t in GPU_TOKENS if t > max(slower, default=0)), None)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="also write one record a case")
    parser.add_argument("--suffix", default="", help="of the cases: one table alone, on a CPU")
    args = parser.parse_args(argv)
    today = datetime.date.today()
    if torch.cuda.is_available():
        name = torch.cuda.get_device_name(0)
        report = Report(f"{name}, torch {torch.__version__}, {today}", args.json)
        crossover_table(report)
        found = crossover(report)
        used = measured.library_tokens(torch.device("cuda", 0))
        print(f"cuBLASLt is faster from {found} rows; {used} was used")
        if found is not None:
            measured.keep(name, str(today), {measured.LIBRARY_TOKENS: found})
        gpu_table(report)
        for name, why in proving.failures().items():
            print(f"not used, so not measured above: {name}: {why}")
    else:
        load = os.getloadavg()[0]
        cores = f"{torch.get_num_threads()} threads of {os.cpu_count()} cores, load {load:.1f}"
        report = Report(f"CPU {platform.processor() or platform.machine()}, {cores}, {today}")
        why = cpu_integers.unsupported()
        print(f"int8 products: {why or cpu_tile.instructions()}")
        cpu_table(report, args.suffix)
        if not args.suffix:
            without_dot_products(report)
            print("no GPU here: its figures are left empty")
    report.write(args.json)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
