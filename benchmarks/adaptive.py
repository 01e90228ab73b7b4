#!/usr/bin/env python3
"""What an adaptive sweep saves, and whether its answer is the full grid's.

    python benchmarks/adaptive.py [SWEEP] [--db DB] [--json FILE]

Runs an adaptive sweep, then the rest of its grid into the same database (half an hour on two
cores; what the database holds is not run again), and compares: the time spent, and the bit-optimal
setting at every budget where the full grid's lead exceeds two standard errors.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import pandas as pd
import yaml

from analysis.bootstrap import ItemScores
from analysis.optimal import answers_at, competitors, overlap_range
from orchestrator.paths import ROOT, database_url
from orchestrator.reading import read_item_scores, read_results
from orchestrator.store import Store
from orchestrator.sweep import main as run_sweep

BUDGETS = 200  # evenly in log(bits), where at least two curves of the full grid overlap
METRICS = ("cross_entropy", "zero_shot")


def run_both(sweep: Path, url: str) -> None:
    """The adaptive sweep, then everything it left out."""
    with tempfile.TemporaryDirectory() as folder:
        full = Path(folder) / sweep.name
        full.write_text(yaml.safe_dump(yaml.safe_load(sweep.read_text()) | {"strategy": "full"}))
        for path in (sweep, full):
            if run_sweep([str(path), "--db", url]):
                sys.exit(f"error: the sweep of {path} is not complete")


def seconds_spent(attempts: pd.DataFrame) -> tuple[float, float, float]:
    """Seconds quantizing and scoring: the sample, the full protocol of what it kept, and of all."""
    spent = attempts["seconds_quantize"] + attempts["seconds_score"]
    dropped = attempts.loc[attempts["status"] == "dropped", "experiment_id"]
    full = attempts["stage"] == "full"
    kept = full & ~attempts["experiment_id"].isin(dropped)
    return float(spent[~full].sum()), float(spent[kept].sum()), float(spent[full].sum())


def compare_answers(
    everything: pd.DataFrame, kept: pd.DataFrame, metric: str, scores: ItemScores
) -> tuple[int, int, int]:
    """Budgets that the full grid answers significantly; where the answer is the same; all."""
    significant = same = asked = 0
    fields, fewer = competitors(everything, metric, "total"), competitors(kept, metric, "total")
    for family, curves in fields.items():
        span = overlap_range(curves)
        if span is None:
            continue
        budgets = list(np.geomspace(*span, BUDGETS))
        ours = answers_at(fewer[family], budgets)
        asked += len(budgets)
        for full, adaptive in zip(answers_at(curves, budgets, scores), ours, strict=True):
            significant += full.significant
            same += full.significant and adaptive.setting == full.setting
    return significant, same, asked


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sweep", nargs="?", type=Path, default=ROOT / "sweeps" / "adaptive.yaml")
    parser.add_argument("--db", help="default: results/adaptive-beside-full.db")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    url = database_url(arguments.db, "adaptive-beside-full")
    run_both(arguments.sweep, url)
    records = []

    def note(metric, value, unit, peer="", peer_value=None, ratio=None):
        device = f"{platform.machine()}, {os.cpu_count()} CPUs"
        keys = ("case", "metric", "value", "unit", "peer", "peer_value", "ratio", "device")
        row = (arguments.sweep.stem, metric, value, unit, peer, peer_value, ratio, device)
        records.append(dict(zip(keys, row, strict=True)))
        beside = f"   {peer}: {peer_value:g}" + (f", {ratio:.2f}x" if ratio else "") if peer else ""
        print(f"{metric:<58} {value:>9.1f} {unit}{beside}", flush=True)

    store = Store.open(url)
    attempts = store.attempts()
    sample, kept, full = seconds_spent(attempts)
    dropped = set(attempts.loc[attempts["status"] == "dropped", "experiment_id"])
    note("experiments scored in full", attempts["experiment_id"].nunique() - len(dropped), "",
         "full grid", attempts["experiment_id"].nunique())  # fmt: skip
    note("seconds of the sample", sample, "s")
    note("seconds in all", sample + kept, "s", "full grid", full, full / (sample + kept))
    note("share of the full grid's seconds", 100 * (sample + kept) / full, "%")
    results = read_results(store)
    rest = results[~results["experiment_id"].isin(dropped)]
    for metric in METRICS:
        found = compare_answers(
            results, rest, metric, lambda ids, task, name: read_item_scores(store, ids, task, name)
        )
        significant, same, asked = found
        note(f"{metric}: same answer, of {asked} budgets", same, "", "significant", significant)
    if arguments.json:
        arguments.json.write_text(json.dumps(records, indent=1) + "\n")


if __name__ == "__main__":
    main()
