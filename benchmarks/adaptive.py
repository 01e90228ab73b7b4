#!/usr/bin/env python3
"""What an adaptive sweep saves, and whether its answer is the full grid's.

    python benchmarks/adaptive.py [SWEEP] [--db DB] [--json FILE]

Runs an adaptive sweep, then the rest of its grid into a copy of the database, DB with `-full` (half
an hour on two cores; what the databases hold is not run again), and compares: the time spent, and
the bit-optimal setting at every budget where the full grid's lead exceeds two standard errors.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sqlite3
import sys
import tempfile
from contextlib import closing
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import pandas as pd
import yaml

from analysis.answers.contest import competitors
from analysis.answers.optimal import answers_at
from analysis.curves.panel import overlap_range
from analysis.curves.points import curve_points
from analysis.noise.bootstrap import ItemScores
from orchestrator.paths import ROOT, database_url
from orchestrator.store.reading import read_item_scores, read_results
from orchestrator.store.store import Store
from orchestrator.sweep import main as run_sweep

BUDGETS = 200  # evenly in log(bits), where at least two curves of the full grid overlap
METRICS = ("cross_entropy", "zero_shot")


def run_both(sweep: Path, url: str) -> str:
    """The adaptive sweep, then everything it left out; the URL of the database with everything."""
    _run(sweep, url)
    adaptive = Path(url.removeprefix("sqlite:///"))
    full = adaptive.with_name(f"{adaptive.stem}-full{adaptive.suffix}")
    if not full.exists():
        with closing(sqlite3.connect(adaptive)) as source, closing(sqlite3.connect(full)) as target:
            source.backup(target)
    with tempfile.TemporaryDirectory() as folder:
        study = Path(folder) / sweep.name
        study.write_text(yaml.safe_dump(yaml.safe_load(sweep.read_text()) | {"strategy": "full"}))
        _run(study, f"sqlite:///{full}")
    return f"sqlite:///{full}"


def _run(sweep: Path, url: str) -> None:
    if run_sweep([str(sweep), "--db", url]):
        sys.exit(f"error: the sweep of {sweep} is not complete")


def seconds_spent(attempts: pd.DataFrame) -> tuple[float, float]:
    """Seconds quantizing and scoring: of the samples, and of what was scored in full.

    What was scored in two attempts counts as quantized once: so it would be in a full grid.
    """
    sampled = attempts[attempts["stage"] != "full"]
    whole = attempts[attempts["stage"] == "full"].groupby("experiment_id")
    return (
        float(sampled["seconds_quantize"].sum() + sampled["seconds_score"].sum()),
        float(whole["seconds_quantize"].max().sum() + whole["seconds_score"].sum().sum()),
    )


def compare_answers(
    everything: pd.DataFrame, adaptive: pd.DataFrame, metric: str, scores: ItemScores
) -> tuple[int, int, int]:
    """Budgets that the full grid answers significantly; where the answer is the same; all."""
    significant = same = asked = 0
    fields, fewer = competitors(everything, metric, "total"), competitors(adaptive, metric, "total")
    for family, curves in fields.items():
        span = overlap_range(curves)
        if span is None:
            continue
        budgets = list(np.geomspace(*span, BUDGETS))
        ours = answers_at(fewer[family], budgets)
        asked += len(budgets)
        for full, found in zip(answers_at(curves, budgets, scores), ours, strict=True):
            significant += full.significant
            same += full.significant and found.setting == full.setting
    return significant, same, asked


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sweep", nargs="?", type=Path, default=ROOT / "sweeps" / "adaptive.yaml")
    parser.add_argument("--db", help="default: results/adaptive-beside-full.db")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    url = database_url(arguments.db, "adaptive-beside-full")
    everything = Store.open(run_both(arguments.sweep, url))
    records = []

    def note(metric, value, unit, peer="", peer_value=None, ratio=None):
        device = f"{platform.machine()}, {os.cpu_count()} CPUs"
        keys = ("case", "metric", "value", "unit", "peer", "peer_value", "ratio", "device")
        row = (arguments.sweep.stem, metric, value, unit, peer, peer_value, ratio, device)
        records.append(dict(zip(keys, row, strict=True)))
        beside = f"   {peer}: {peer_value:g}" + (f", {ratio:.2f}x" if ratio else "") if peer else ""
        print(f"{metric:<58} {value:>9.1f} {unit}{beside}", flush=True)

    store = Store.open(url)
    sample, kept = seconds_spent(store.attempts())
    _, full = seconds_spent(everything.attempts())
    grid, results = read_results(everything), read_results(store)
    for metric in METRICS:
        n, of = (len(curve_points(rows, metric)) for rows in (results, grid))
        note(f"{metric}: experiments scored in full", n, "", "full grid", of)
    note("seconds of the samples", sample, "s")
    note("seconds in all", sample + kept, "s", "full grid", full, full / (sample + kept))
    note("share of the full grid's seconds", 100 * (sample + kept) / full, "%")
    scores = partial(read_item_scores, everything)
    for metric in METRICS:
        significant, same, asked = compare_answers(grid, results, metric, scores)
        note(f"{metric}: same answer, of {asked} budgets", same, "", "significant", significant)
    if arguments.json:
        arguments.json.write_text(json.dumps(records, indent=1) + "\n")


if __name__ == "__main__":
    main()
