"""What scoring costs where activations are rounded: a resident model beside its own 16-bit setting.

    python benchmarks/activations.py [--hidden 128 256 512 1024] [--json FILE]

Random GPT-NeoX models of two layers score the same windows by the engine that sweeps score with, at
16 bit and at each setting in turn, round after round, so that a busy machine slows all alike. The
figures are medians of seconds a pass, on a CPU of core seconds, which leave out what others do
there; a ratio below 0.5 means that rounding costs more than twice.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from evaluation.engine.scoring import Scorer
from evaluation.engine.sequences import Sequences
from quantizers.calibration import collect
from quantizers.resident import ResidentModel
from quantizers.setting import Setting

VOCABULARY, CONTEXT, WINDOWS = 2048, 256, 4
PEER = "16 bit"
ROW: dict[str, Any] = {"data_type": "int", "block_size": "row"}
GROUP: dict[str, Any] = {"data_type": "int", "block_size": {"group": 128}}
# Nothing in a random model reaches the default of 6, so that one product does. Here all take both.
OUTLIERS_EVERYWHERE = {"decomposed": {"bits": 8, "threshold": 1e-3}}
SETTINGS = {
    PEER: Setting.make(16),
    "W8A8 token": Setting.make(8, **ROW, activations="token"),
    "W8A8 tensor": Setting.make(8, **ROW, activations="tensor"),
    "W8A8 decomposed": Setting.make(8, **ROW, activations="decomposed"),
    "W8A8 decomposed, outliers": Setting.make(8, **ROW, activations=OUTLIERS_EVERYWHERE),
    "W8A8 rotated, token": Setting.make(8, **ROW, activations="token", folding="hadamard"),
    "W8A8 token, KV8 token": Setting.make(8, **ROW, activations="token", kv="token"),
    "W4A8 row, token": Setting.make(4, **ROW, activations="token"),
    "W4A8 group 128, by type": Setting.make(4, **GROUP, activations="by_type"),
}


def resident_model(hidden: int, device: str) -> ResidentModel:
    config = GPTNeoXConfig(
        vocab_size=VOCABULARY,
        hidden_size=hidden,
        intermediate_size=4 * hidden,
        num_hidden_layers=2,
        num_attention_heads=max(1, hidden // 64),
        max_position_embeddings=CONTEXT,
    )
    torch.manual_seed(0)
    model = GPTNeoXForCausalLM(config).eval().to(device)
    dtype = torch.float32 if device == "cpu" else torch.float16
    return ResidentModel(model, compute_dtype=dtype)


def windows(generator: torch.Generator) -> torch.Tensor:
    return torch.randint(VOCABULARY, (WINDOWS, CONTEXT), generator=generator)


def seconds_a_pass(hidden: int, device: str, rounds: int) -> dict[str, float]:
    """Median seconds (of a core, on a CPU) to score all windows, by setting; the first round is
    left out."""
    resident = resident_model(hidden, device)
    generator = torch.Generator().manual_seed(0)
    text = [(window.tolist(), CONTEXT - 1) for window in windows(generator)]
    sequences = Sequences.of(text)
    scorer = Scorer(resident.model, CONTEXT)
    statistics_ = dict(collect(resident.model, resident.wiring, windows(generator)))
    taken: dict[str, list[float]] = {name: [] for name in SETTINGS}
    clock = time.process_time if device == "cpu" else time.perf_counter
    for turn in range(rounds + 1):
        for name, setting in SETTINGS.items():
            resident.apply(setting, statistics_)
            started = clock()
            scorer.score(sequences, greedy=False)
            if turn:
                taken[name].append(clock() - started)
    return {name: statistics.median(times) for name, times in taken.items()}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hidden", type=int, nargs="+", default=[128, 256, 512, 1024])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="also write one record a case")
    args = parser.parse_args(argv)
    on_gpu = torch.cuda.is_available()
    device = torch.cuda.get_device_name() if on_gpu else platform.processor() or platform.machine()
    where = f"{device}, {torch.get_num_threads()} threads of {os.cpu_count()} cores"
    where += f", load {os.getloadavg()[0]:.1f}, {datetime.date.today()}"
    print(where)
    records = []
    for hidden in args.hidden:
        found = seconds_a_pass(hidden, "cuda" if on_gpu else "cpu", args.rounds)
        for name, seconds in found.items():
            ratio = found[PEER] / seconds
            print(
                f"hidden {hidden:5} {name:26} {seconds * 1e3:9.1f} ms {1 / ratio:6.2f} x the time"
            )
            record = {"case": f"{name}, hidden {hidden}", "metric": "scoring", "value": seconds}
            record |= {"unit": "s", "peer": PEER, "peer_value": found[PEER], "ratio": ratio}
            records.append({**record, "device": where})
        if args.json:
            args.json.write_text(json.dumps(records, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
