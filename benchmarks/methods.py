"""What one-shot rounding costs: settings stacked in one loop, beside the plain loop of each.

    python benchmarks/methods.py [--shapes 1024x1024 4096x4096] [--model DIR] [--json FILE]

The peer is GPTQ as its authors' code does it, one setting at a time: a Cholesky factor, an inverse
and another factor in fp32, then a loop over columns in plain torch, lazily by 128; here with static
scales and any codebook, so that both do the same work. The figures are seconds of a setting, by the
clock and of all cores (which a busy machine changes less), medians of the rounds, and the most
memory that a case takes beyond what it is given. Of a whole model all that applying a setting does
is in them: scales, the loop, packing, the losses of GPTQ and of nearest, dequantizing; of the plain
loop only the loop. Without a GPU its figures are left empty.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import datetime
import json
import os
import platform
import time
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from quantizers.blockwise import residual, scaled, spread
from quantizers.calibration import collect
from quantizers.codebooks import codebook, midpoints_of, quantile
from quantizers.granularity import ROW, Granularity
from quantizers.resident import ResidentModel
from quantizers.rounding.factor import factor
from quantizers.rounding.gptq import LAZY, gptq
from quantizers.rounding.problem import Problem
from quantizers.setting import Setting
from quantizers.stack import Stack

SHAPES = ("1024x1024", "4096x4096")  # d_out x d_in
BITS = (2, 3, 4, 8)
DATA_TYPES = ("int", "float", "dynamic", "quantile")
GRANULARITIES = (Granularity(64), Granularity(128), Granularity(1024), ROW)
PLAIN = "plain loop"
MODEL = Path(__file__).parents[1] / "models" / "sotu-neox-128x4"
DAMPING = 0.01
Settings = list[tuple[int, str, Granularity]]


def all_settings() -> Settings:
    return list(product(BITS, DATA_TYPES, GRANULARITIES))


def problems(weight: Tensor, settings: Settings) -> list[Problem]:
    """With scales and codebooks of rounding to nearest, made before the clock starts."""
    found = []
    for bits, data_type, granularity in settings:
        if data_type == "quantile":
            table = quantile(bits, residual(weight, granularity))
        else:
            table = codebook(data_type, bits)
        found.append(Problem(weight, scaled(weight, table, bits, granularity)))
    return found


def plain(problem: Problem, hessian: Tensor) -> Tensor:
    """Codes [d_out, d_in] of one setting, as its authors' code finds them."""
    q, w, h = problem.q, problem.weight.float(), hessian.clone()
    n = len(h)
    dead = h.diagonal() == 0
    h.diagonal()[dead] = 1
    order = torch.argsort(h.diagonal(), descending=True)
    w, h = w[:, order], h[order][:, order]
    h.diagonal().add_(DAMPING * h.diagonal().mean())
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(h))
    upper = torch.linalg.cholesky(inverse, upper=True)
    scale = spread(q.absmax.float(), q.blocks).view(q.shape)[:, order]
    middle, table = midpoints_of(q.codebook), q.codebook
    codes = torch.zeros(w.shape, dtype=torch.int64)
    for begin in range(0, n, LAZY):
        end = min(begin + LAZY, n)
        block, errors = w[:, begin:end].clone(), torch.zeros(len(w), end - begin)
        within = upper[begin:end, begin:end]
        for i in range(end - begin):
            column, m = block[:, i], scale[:, begin + i]
            code = torch.searchsorted(middle, torch.where(m > 0, column / m, 0.0))
            codes[:, begin + i] = code
            error = (column - table[code] * m) / within[i, i]
            block[:, i:] -= error[:, None] * within[i, i:]
            errors[:, i] = error
        w[:, end:] -= errors @ upper[begin:end, end:]
    return codes[:, torch.argsort(order)]


def ours(given: list[Problem], hessian: Tensor) -> None:
    gptq(given, factor(hessian, damping=DAMPING))


class Cost:
    """Of one call: seconds by the clock, seconds of all cores, bytes at most."""

    def __init__(self, call: Callable[[], object], rounds: int = 1) -> None:
        self.memory = None
        seconds, core_seconds = [], []
        for _ in range(rounds):
            before = _resident() if _forget_peak() else None
            begun, worked = time.perf_counter(), time.process_time()
            call()
            seconds.append(time.perf_counter() - begun)
            core_seconds.append(time.process_time() - worked)
            if before is not None:
                self.memory = _resident("VmHWM") - before
        self.seconds, self.core_seconds = median(seconds), median(core_seconds)


def _forget_peak() -> bool:
    with contextlib.suppress(OSError, AttributeError):  # what was freed is not held against us
        ctypes.CDLL(None).malloc_trim(0)
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:  # not Linux, or not allowed
        return False
    return True


def _resident(field: str = "VmRSS") -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"no {field} in /proc/self/status")


class Report:
    """Collects records and prints each as a line of the table."""

    def __init__(self, device: str) -> None:
        self.device, self.records = device, []
        print(device)
        print(f"{'case':44} {'metric':14} {'value':>10} {'unit':6} {PLAIN:>12} {'ratio':>7}")

    def add(self, case: str, metric: str, value: float, unit: str, peer: float | None) -> None:
        """ratio: how many times better than the plain loop."""
        ratio = peer / value if peer else None
        beside, times = (f"{peer:12.4g}", f"{ratio:6.1f}x") if ratio else ("", "")
        print(f"{case:44} {metric:14} {value:10.4g} {unit:6} {beside:12} {times:>7}", flush=True)
        record: dict[str, Any] = {"case": case, "metric": metric, "value": value, "unit": unit}
        record |= {"peer": PLAIN if peer else None, "peer_value": peer, "ratio": ratio}
        self.records.append({**record, "device": self.device})

    def add_cost(self, case: str, cost: Cost, settings: int, peer: Cost | None = None) -> None:
        """Seconds of one of `settings`; memory of all."""
        for metric, name in (("time", "seconds"), ("core time", "core_seconds")):
            other = None if peer is None else getattr(peer, name)
            self.add(case, metric, getattr(cost, name) / settings, "s", other)
        if cost.memory is not None:
            self.add(case, "peak memory", cost.memory / 2**20, "MiB", None)


def layer(d_out: int, d_in: int) -> tuple[Tensor, Tensor]:
    """(weights fp16, Hessian fp32) with inputs that are correlated and of unequal size."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(d_out, d_in, generator=generator).mul(0.02).half()
    x = torch.randn(2 * d_in, d_in, generator=generator)
    x = x + 0.5 * x.roll(1, 1) + 0.3 * x.roll(7, 1)
    x *= torch.rand(d_in, generator=generator).mul(2).exp()
    return weight, 2 * x.T @ x / len(x)


def cpu_table(report: Report, shape: str) -> None:
    d_out, d_in = (int(side) for side in shape.split("x"))
    weight, hessian = layer(d_out, d_in)
    settings = all_settings()
    given = problems(weight, settings)
    ours(problems(weight[:1], settings[:1]), hessian)  # compiles
    small = d_in <= 1024
    rounds = 3 if small else 1
    peers = []
    for bits in (4, 8) if small else (4,):
        i = settings.index((bits, "int", GRANULARITIES[0]))
        name = f"{bits}-bit int {shape}"
        peers.append(Cost(partial(plain, given[i], hessian), rounds))
        report.add_cost(f"plain loop, {name}", peers[-1], 1)
        lone = Cost(partial(ours, [given[i]], hessian), rounds)
        report.add_cost(f"one setting, {name}", lone, 1, peers[-1])
    report.add_cost(f"factor of H {shape}", Cost(lambda: factor(hessian), rounds), 1)
    stacked = Cost(lambda: ours(given, hessian))
    report.add_cost(f"one of {len(given)} stacked {shape}", stacked, len(given), peers[0])


def model_table(report: Report, folder: Path) -> None:
    """A pretrained model, its statistics of random tokens collected before."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    resident = ResidentModel(model)
    generator = torch.Generator().manual_seed(0)
    windows = torch.randint(model.config.vocab_size, (32, 128), generator=generator)
    statistics = dict(collect(resident.model, resident.wiring, windows))
    given = [
        Setting.make(bits, data_type, block_size=granularity.size or "row", rounding="gptq")
        for bits, data_type, granularity in all_settings()
    ]
    loops = [
        (problems(site.weight.half().contiguous(), [(4, "int", GRANULARITIES[0])])[0], site.input)
        for site in resident.wiring.linear
    ]

    def plain_model() -> None:
        for problem, name in loops:
            plain(problem, statistics[name].hessian)

    def stacked() -> None:
        stack = Stack(given)
        for setting in given:
            resident.apply(setting, statistics, stack)

    lone = given[all_settings().index((4, "int", GRANULARITIES[0]))]
    resident.apply(lone, statistics)  # compiles
    peer = Cost(plain_model, 3)
    report.add_cost(f"plain loop, 4-bit int {folder.name}", peer, 1)
    alone = Cost(lambda: resident.apply(lone, statistics), 3)
    report.add_cost(f"one setting, 4-bit int {folder.name}", alone, 1, peer)
    cost = Cost(stacked, 3)
    report.add_cost(f"one of {len(given)} stacked {folder.name}", cost, len(given), peer)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shapes", nargs="*", default=SHAPES, metavar="OUTxIN")
    parser.add_argument("--model", type=Path, default=MODEL, metavar="DIR")
    parser.add_argument("--json", type=Path, help="also write one record a case")
    args = parser.parse_args(argv)
    cores = f"{torch.get_num_threads()} threads of {os.cpu_count()} cores"
    processor = platform.processor() or platform.machine()
    load = f"load {os.getloadavg()[0]:.0f}, nice {os.nice(0)}"
    report = Report(f"CPU {processor}, {cores}, {load}, {datetime.date.today()}")
    model_table(report, args.model)
    for shape in args.shapes:
        cpu_table(report, shape)
    print("GPU: its figures are left empty")
    if args.json:
        args.json.write_text(json.dumps(report.records, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
