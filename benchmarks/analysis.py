"""How long the answers take on a large database: 35,000 experiments with their item scores.

Synthetic: 5 families of 10 sizes at 700 settings each. Prints one table; `--json FILE` keeps it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from itertools import product
from pathlib import Path

# The files beside this one must not be taken for the packages of their names.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from sqlalchemy import insert

from evaluation.tasks.sets import TASK_SETS
from orchestrator.store.item_scores import pack_scores
from orchestrator.store.schema import (
    AttemptRow,
    ExperimentRow,
    ItemScoresRow,
    MeasurementRow,
    ProtocolRow,
)
from orchestrator.store.store import Store
from quantizers.data_types import default_exponent_bits
from quantizers.setting import Setting

N_FAMILIES, N_SIZES, N_ITEMS = 5, 10, 500
BLOCKS = (16, 32, 64, 128, 256, 512, 1024, None)
PROMISED = {"kbit report": 30.0, "kbit optimal --budget": 2.0}  # seconds, on two cores
ROOT = Path(__file__).resolve().parent.parent


def settings() -> list[Setting]:
    """700 settings: precision x type (with float's exponent splits) x block x proxy x centering."""
    found = [Setting.make(16)]
    for centered, p in ((False, 0.0), (False, 0.02), (True, 0.0), (False, 0.01)):
        for bits in (4, 3, 5, 6, 7, 8, 2):
            types: list[tuple[str, int | None]] = [("float", default_exponent_bits(bits))]
            types += [("int", None), ("dynamic", None), ("quantile", None)]
            types += [("float", e) for e in range(1, bits) if e != default_exponent_bits(bits)]
            for block, (data_type, exponent) in product(BLOCKS, types):
                factors = {"outlier_fraction": p, "centered": centered, "exponent_bits": exponent}
                found.append(Setting.make(bits, data_type, block_size=block, **factors))
    return found[:700]


def build(path: Path) -> int:
    """Write the database; returns the number of experiments."""
    store = Store.create(f"sqlite:///{path}")
    rng = np.random.default_rng(0)
    tasks = TASK_SETS["paper"]
    names = [*tasks, "pile_cc"]
    per_model = settings()
    luck = {task: rng.normal(size=N_ITEMS) for task in names}  # an item is hard for all
    with store.engine.execution_options(writes=True).begin() as connection:
        connection.execute(
            insert(ProtocolRow),
            [{"number": i, "id": f"p{i}", "task": t, "settings": {}} for i, t in enumerate(names)],
        )
        number = 0
        for f in range(N_FAMILIES):
            for size in range(N_SIZES):
                rows, metrics, scores, attempts = [], [], [], []
                own = {task: rng.normal(size=N_ITEMS) for task in names}
                for s in per_model:
                    number += 1
                    rows.append(_experiment(number, f, size, s))
                    key = {"experiment": number}
                    for task, name, items in _scores(rng, f, size, s, luck, own, tasks):
                        place = key | {"protocol": names.index(task), "metric": name}
                        error = float(items.std(ddof=1) / np.sqrt(len(items)))
                        value = float(items.mean())
                        metrics.append(
                            place | {"value": value, "stderr": error, "n_items": len(items)}
                        )
                        if name == "cross_entropy":
                            more = {"value": np.exp(value), "stderr": error * np.exp(value)}
                            more |= {"metric": "perplexity", "n_items": len(items)}
                            metrics.append(place | more)
                        scores.append(place | {"scores": pack_scores(items)})
                    attempts.append(_attempt(number))
                connection.execute(insert(ExperimentRow), rows)
                connection.execute(insert(MeasurementRow), metrics)
                connection.execute(insert(ItemScoresRow), scores)
                connection.execute(insert(AttemptRow), attempts)
    return number


def _experiment(number: int, f: int, size: int, s: Setting) -> dict:
    n_params = int(1.2e8 * 2**size * (1 + 0.1 * f))
    per_param = s.bits_per_param
    return {
        "number": number,
        "id": f"{number:064x}",
        "source": "kbit",
        "family": f"family-{f}",
        "model": f"family-{f}-{size}",
        "model_source": f"hub/family-{f}-{size}",
        "revision": "main",
        "load_dtype": "float16",
        "compute_dtype": "float16",
        "n_params": n_params,
        **s.row(),
        "bits_per_param": per_param,
        "total_bits": int(n_params * (0.9 * per_param + 1.6)),
        "quantized_bits": int(0.9 * n_params * per_param),
        "nominal_bits": n_params * per_param,
    }


def _scores(rng, f: int, size: int, s: Setting, luck: dict, own: dict, tasks: dict):
    """(task, metric, items) of an experiment whose loss grows as its error of rounding does."""
    block = np.log2(s.block_size or 8192) - 6
    harm = 2.0 ** (4 - s.bits) * 0.04 * (1 + 0.06 * block) if s.bits < 16 else 0.0
    loss = 3.6 - 0.13 * size + 0.02 * f + harm
    for task, name in tasks.items():
        ability = 0.6 * luck[task] + 0.6 * own[task] + 0.4 * rng.normal(size=N_ITEMS)
        yield task, name, (ability < 2.2 * (3.45 - loss)).astype(np.float32)
    items = loss + 0.4 * luck["pile_cc"] + 0.1 * own["pile_cc"]
    yield "pile_cc", "cross_entropy", (items[:64] + 0.05 * rng.normal(size=64)).astype(np.float32)


def _attempt(number: int) -> dict:
    seconds = {"seconds_load": 0.0, "seconds_quantize": 0.1, "seconds_score": 1.0}
    place = {"experiment": number, "host": "synthetic", "device": "cpu", "threads": 1}
    return place | seconds | {"status": "done", "finished_at": "", "error": None, "versions": {}}


def timed(*arguments: str) -> float:
    """Seconds of a `kbit` command in a process of its own."""
    started = time.perf_counter()
    command = [sys.executable, "-m", "kbit.cli", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"kbit {' '.join(arguments)}: {done.stderr.strip()}")
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="also write one record a case")
    parser.add_argument("--db", type=Path, help="keep the synthetic database here, or reuse it")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = args.db or Path(folder) / "large.db"
        if not path.exists():
            started = time.perf_counter()
            n = build(path)
            print(
                f"built {n} experiments in {time.perf_counter() - started:.0f} s, "
                f"{path.stat().st_size / 1e6:.0f} MB"
            )
        db = ["--db", str(path)]
        cases = {
            "kbit optimal --budget": ["optimal", "--budget", "1GiB", *db],
            "kbit optimal --budget, one family": [
                "optimal", "--budget", "1GiB", "--family", "family-2", *db
            ],
            "kbit optimal --budget, cross-entropy": [
                "optimal", "--budget", "1GiB", "--metric", "cross_entropy", *db
            ],
            "kbit optimal (all budgets)": ["optimal", *db],
            "kbit report": ["report", *db, "--output", str(Path(folder) / "report.html")],
        }  # fmt: skip
        records = []
        device = f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"
        print(f"{'case':40} {'seconds':>8} {'promised':>9}")
        for case, arguments in cases.items():
            seconds = min(timed(*arguments) for _ in range(3 if seconds_short(case) else 1))
            promised = PROMISED.get(case)
            print(f"{case:40} {seconds:8.2f} {promised if promised else '':>9}", flush=True)
            records.append(
                {
                    "case": f"{case}, 35,000 experiments",
                    "metric": "wall time",
                    "value": round(seconds, 3),
                    "unit": "s",
                    "peer": "promised" if promised else None,
                    "peer_value": promised,
                    "ratio": round(promised / seconds, 2) if promised else None,
                    "device": device,
                }
            )
    if args.json:
        args.json.write_text(json.dumps(records, indent=1) + "\n")


def seconds_short(case: str) -> bool:
    return "--budget" in case


if __name__ == "__main__":
    main()
