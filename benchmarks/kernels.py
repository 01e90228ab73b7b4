"""How fast the packed kernels are, beside bitsandbytes, cuBLAS and a copy, in one run.

    python benchmarks/kernels.py [--json FILE]

With a GPU: GB/s of dequantize and quantize for every k and B, and the fused multiply against cuBLAS
fp16 on the way from 4096^2 to 16384^2. Without: the CPU path on 4096 x 4096. bitsandbytes is
compared where it is installed and has the case. Every figure is a median; bytes are those the work
needs at least (each input read once, each output written once); caches are cold. The copy that
bandwidth is measured against is the fastest of three kinds.
"""

from __future__ import annotations

import argparse
import ctypes
import datetime
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from quantizers.blockwise import dequantize, quantize
from quantizers.codebooks import codebook, quantile
from quantizers.granularity import Granularity
from quantizers.kernels import gpu, launches, measured, proving, tuning
from quantizers.packed import PackedTensor, empty

BITS = range(2, 9)
BLOCKS = (16, 32, 64, 128, 256, 1024, 4096)
SIDES = (4096, 8192, 16384)  # of the fused multiply's matrix
ROWS = (1, 2, 4, 8, 16, 32, 48, 64)  # of its x
ROUNDS = 20
SETTLED = 0.02
B64 = Granularity(64)
AT_ONCE = "at once"
Case = Callable[[], object]


class Report:
    """Collects records and prints each as a line of the table; one of a GPU, whose time may end
    sooner, also writes them to its file as they come."""

    def __init__(self, device: str, file: Path | None = None) -> None:
        self.device, self.file = device, file
        self.records: list[dict[str, Any]] = []
        print(device)
        print(f"{'case':46} {'metric':16} {'value':>10} {'unit':8} {'peer':24} {'ratio':>6}")

    def add(
        self,
        case: str,
        metric: str,
        value: float,
        unit: str,
        peer: str | None = None,
        peer_value: float | None = None,
        ratio: float | None = None,
    ) -> None:
        beside = "" if peer is None else f"{peer} {peer_value:.4g}"
        times = "" if ratio is None else f"{ratio:.2f}x"
        print(f"{case:46} {metric:16} {value:10.4g} {unit:8} {beside:24} {times:>6}", flush=True)
        self.records.append(
            {
                "case": case,
                "metric": metric,
                "value": value,
                "unit": unit,
                "peer": peer,
                "peer_value": peer_value,
                "ratio": ratio,
                "device": self.device,
            }
        )
        self.write(self.file)

    def write(self, file: Path | None) -> None:
        if file is not None:
            file.write_text(json.dumps(self.records, indent=1) + "\n")

    def add_time(self, case: str, taken: float, peer: str, peer_taken: float) -> None:
        """Seconds, shown in microseconds; ratio: how many times faster than the peer."""
        ratio = peer_taken / taken
        self.add(case, "time", taken * 1e6, "us", peer, peer_taken * 1e6, ratio)

    def add_throughput(self, case: str, moved: int, taken: float, copy: float) -> None:
        """Bytes moved in seconds; ratio: the part of a device copy's bandwidth."""
        rate = moved / taken
        self.add(case, "throughput", rate / 1e9, "GB/s", "device copy", copy / 1e9, rate / copy)


def bitsandbytes() -> Any:
    """Its functional module, or None."""
    try:
        import bitsandbytes.functional as functional
    except Exception:  # not installed, or not for this machine
        return None
    return functional


def table_of(bits: int) -> Tensor:
    return codebook("float", bits)


# --- CPU ---


def seconds(*cases: Case, rounds: int = 5, calls: int = 5) -> list[float]:
    """Median wall time of a call, cases in turns so that a busy machine disturbs all alike.

    A turn is some calls in a row, counted from SETTLED seconds on: until then the threads of the
    case before may still hold a core, waiting for more.
    """
    taken: list[list[float]] = [[] for _ in cases]
    for _ in range(rounds):
        for case, times in zip(cases, taken, strict=True):
            begun, left = time.perf_counter(), calls
            while left:
                started = time.perf_counter()
                case()
                if started > begun + SETTLED:
                    times.append(time.perf_counter() - started)
                    left -= 1
    return [statistics.median(times) for times in taken]


def cpu_table(report: Report, side: int = 4096) -> None:
    """quantize + pack and unpack + dequantize of a square fp16 matrix at B = 64.

    Dequantized twice: to memory fresh from the system, which clears every page of it first, and to
    memory that an earlier result has left to the process.
    """
    weight = torch.randn(side, side, generator=torch.Generator().manual_seed(0)).mul(0.02).half()
    bnb = bitsandbytes()
    peers: list[Case | None] = [None, None]
    if bnb is not None:
        theirs, state = bnb.quantize_4bit(weight, blocksize=64, quant_type="nf4")
        peers = [
            partial(bnb.quantize_4bit, weight, blocksize=64, quant_type="nf4"),
            partial(bnb.dequantize_4bit, theirs, state),
        ]
    packed = {bits: quantize(weight, table_of(bits), bits, B64) for bits in BITS}
    for bits in BITS:
        own = partial(quantize, weight, table_of(bits), bits, B64)
        compare(report, f"quantize k={bits} B=64 {side}x{side}", own, peers[0])
    for keep in (False, True):
        if not keep_memory(keep):
            print("this system's allocator cannot be told whether to keep memory")
            continue
        where = "memory at hand" if keep else "fresh memory"
        for bits in BITS:
            own = partial(dequantize, packed[bits])
            compare(report, f"dequantize k={bits} B=64 {side}x{side}, {where}", own, peers[1])


def compare(report: Report, case: str, own: Case, peer: Case | None) -> None:
    if peer is None:
        report.add(case, "wall time", seconds(own)[0], "s")
        return
    taken, other = seconds(own, peer)
    report.add(case, "wall time", taken, "s", "bitsandbytes 4 bit", other, other / taken)


def keep_memory(keep: bool) -> bool:
    """Have the C library keep what is freed for the next, or give it back. Whether it obeyed."""
    try:
        tell = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # not glibc
        return False
    trim_threshold, most_maps = -1, -4  # of malloc.h
    return bool(
        tell(trim_threshold, 2**31 - 1 if keep else 2**17) and tell(most_maps, 0 if keep else 2**16)
    )


# --- GPU ---


def device_seconds(cases: Sequence[Case]) -> float:
    """Median device time of one case: all of them, in a graph, over and over.

    The cases do the same on different buffers, together more than the cache holds, so that each
    finds it cold. A graph, because launching from Python takes longer than a small kernel.
    """
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for case in cases:
            case()
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        for case in cases:
            case()
    graph.replay()
    times = []
    for _ in range(ROUNDS):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) / 1000 / len(cases))
    return statistics.median(times)


def copies(bytes_each: int) -> int:
    """How many buffers of a size outgrow the L2 cache four times over."""
    return max(2, -(-4 * torch.cuda.get_device_properties(0).L2_cache_size // bytes_each))


def copy_bandwidth() -> float:
    """Bytes a second, read and written, of a device copy: what everything is measured against.

    The fastest of the driver's copy, by itself and in a graph, and an elementwise kernel.
    """
    source = torch.ones(2**29, device="cuda")
    target = torch.empty_like(source)
    taken = [device_seconds([lambda: target.copy_(source)])]
    taken.append(device_seconds([lambda: torch.mul(source, 1.0, out=target)]))
    times = []
    for _ in range(ROUNDS):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        target.copy_(source)
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) / 1000)
    return 2 * source.nbytes / min(*taken, statistics.median(times))


def warm_up() -> None:
    """Half a second of products: an idle GPU takes a while to raise its clocks."""
    a = torch.randn(4096, 4096, device="cuda").half()
    until = time.perf_counter() + 0.5
    while time.perf_counter() < until:
        for _ in range(20):
            a @ a
        torch.cuda.synchronize()


def clock_rate() -> float:
    """Cycles a second that the multiprocessors run at now."""
    cycles = 20_000_000
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    torch.cuda._sleep(cycles)
    end.record()
    end.synchronize()
    return cycles / begin.elapsed_time(end) * 1000


def random_matrix(side: int) -> Tensor:
    return torch.randn(side, side, device="cuda").mul(0.02).half()


def dequantize_table(report: Report, copy: float, side: int = 16384) -> None:
    weight, bnb = random_matrix(side), bitsandbytes()
    for bits in BITS:
        for block in BLOCKS:
            q = quantize(weight, table_of(bits), bits, Granularity(block))
            moved = q.bytes_stored + weight.nbytes
            ours = [_dequantize(_copied(q)) for _ in range(copies(moved))]
            if ours[0]() is None:
                continue
            taken = device_seconds(ours)
            case = f"dequantize k={bits} B={block} {side}x{side}"
            report.add_throughput(case, moved, taken, copy)
            peer = _bitsandbytes_dequantize(bnb, weight, bits, block, len(ours))
            if peer is not None:
                report.add_time(case, taken, "bitsandbytes", device_seconds(peer))


def quantize_table(report: Report, copy: float, side: int = 16384) -> None:
    weights = [random_matrix(side) for _ in range(copies(2 * side * side))]
    for bits in BITS:
        table = table_of(bits).cuda()
        for block in BLOCKS:
            q = empty(weights[0], table, bits, Granularity(block))
            if not gpu.quantize_blocks(weights[0].flatten(), q):
                continue
            moved = q.bytes_stored + weights[0].nbytes
            # A whole call waits for the kernel's verdict, which a graph cannot: the kernel alone.
            taken = device_seconds([_quantize(w.flatten(), q) for w in weights])
            report.add_throughput(f"quantize k={bits} B={block} {side}x{side}", moved, taken, copy)
    case = f"quantile table k=4 {side}x{side}"
    report.add(case, "wall time", seconds(lambda: quantile(4, weights[0]))[0], "s")


def multiply_table(report: Report, copy: float) -> None:
    for side in SIDES:
        weight = random_matrix(side)
        weights = [weight.clone() for _ in range(copies(weight.nbytes))]
        packed = {bits: quantize(weight, table_of(bits), bits, B64) for bits in BITS}
        for rows in ROWS:
            x = torch.randn(rows, side, device="cuda").half()
            cublas = device_seconds([_cublas(x, w) for w in weights])
            for bits, q in packed.items():
                copied = [_copied(q) for _ in range(copies(q.bytes_stored))]
                ours = [_product(q, x) for q in copied]
                if ours[0]() is None:
                    continue
                taken = device_seconds(ours)
                case = f"fused k={bits} B=64 M={rows} {side}x{side}"
                report.add_time(case, taken, "cuBLAS fp16", cublas)
                report.add_throughput(case, q.bytes_stored + 2 * x.nbytes, taken, copy)
                wide_cases = [_product(q, x, tuning.MOST_MULTIPLY_ROWS) for q in copied]
                if rows == tuning.MOST_MULTIPLY_ROWS and wide_cases[0]() is not None:
                    wide = device_seconds(wide_cases)
                    apart = device_seconds([_product(q, x, 16) for q in copied])
                    report.add_time(f"{case}, {AT_ONCE}", wide, "16 rows at a time", apart)
                if rows >= 32:  # which of the two is taken, tuning.most_fused_rows says
                    apart = device_seconds([_dequantized_product(q, x) for q in copied])
                    report.add_time(case, taken, "dequantize + cuBLAS", apart)


def _copied(q: PackedTensor) -> PackedTensor:
    codes = q.codebook.to(q.device)
    return replace(q, words=q.words.clone(), absmax=q.absmax.clone(), codebook=codes)


def _dequantize(q: PackedTensor) -> Callable[[], Any]:
    return partial(gpu.dequantize, q)


def _quantize(values: Tensor, like: PackedTensor) -> Case:
    q = replace(like, words=like.words.clone(), absmax=like.absmax.clone())
    planned = launches.quantize_blocks(values, q, proving.processors(values.device))
    assert planned is not None
    return lambda: proving.start(planned[0], values.device)


def _product(q: PackedTensor, x: Tensor, rows: int | None = None) -> Case:
    """As `gpu.multiply`, also beyond the crossover; rows: of x at once."""
    at_once = measured.multiply_rows(x.device) if rows is None else rows

    def multiplied() -> Tensor | None:
        parts = [gpu.multiply_at_once(part, q, None) for part in x.split(at_once)]
        found = [part for part in parts if part is not None]
        return None if len(found) < len(parts) else torch.cat(found)

    return multiplied


def faster_rows(report: Report) -> int | None:
    """16 or 32 rows of x at once, by the median over matrices of 4 bit; None where 32 never ran."""
    found = [
        r["ratio"] for r in report.records if r["case"].endswith(AT_ONCE) and "k=4" in r["case"]
    ]
    return None if not found else 32 if statistics.median(found) > 1 else 16


def _dequantized_product(q: PackedTensor, x: Tensor) -> Case:
    weight = _dequantize(q)
    return lambda: x @ weight().view(q.shape).T


def _cublas(x: Tensor, weight: Tensor) -> Case:
    return lambda: x @ weight.T


def _bitsandbytes_dequantize(
    bnb: Any, weight: Tensor, bits: int, block: int, n: int
) -> list[Case] | None:
    if bnb is None or block < 64 or bits not in (4, 8):
        return None
    if bits == 4:
        made = [bnb.quantize_4bit(weight, blocksize=block, quant_type="nf4") for _ in range(n)]
        return [partial(bnb.dequantize_4bit, codes, state) for codes, state in made]
    made = [bnb.quantize_blockwise(weight, blocksize=block) for _ in range(n)]
    return [partial(bnb.dequantize_blockwise, codes, state) for codes, state in made]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="also write one record a case")
    args = parser.parse_args(argv)
    today = datetime.date.today()
    if torch.cuda.is_available():
        name = torch.cuda.get_device_name(0)
        report = Report(f"{name}, torch {torch.__version__}, {today}", args.json)
        warm_up()
        copy = copy_bandwidth()
        report.add("device copy, 2 GiB", "throughput", copy / 1e9, "GB/s")
        report.add("multiprocessors", "clock", clock_rate() / 1e9, "GHz")
        for table in (multiply_table, dequantize_table, quantize_table):
            warm_up()
            table(report, copy)
            # At once: a session's time may end within a later table.
            if table is multiply_table and (rows := faster_rows(report)) is not None:
                measured.keep(name, str(today), {measured.MULTIPLY_ROWS: rows})
        for instance, why in proving.failures().items():
            print(f"not used, so not measured above: {instance}: {why}")
    else:
        cores = f"{torch.get_num_threads()} threads of {os.cpu_count()} cores"
        report = Report(f"CPU {platform.processor() or platform.machine()}, {cores}, {today}")
        cpu_table(report)
        print("no GPU here: its figures are left empty")
    report.write(args.json)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
