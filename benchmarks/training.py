"""Tokens a second of training: ours beside a plain transformers + AdamW loop, and half beside fp32.

Every measurement is a process of its own, in turns: the fastest step of each, the median of the
rounds. One thread: CPU seconds, so that other load counts little. Two cores: wall seconds, of one
plain loop with two threads and of two of our runs at once, as `kbit train-study` places them; that
needs an idle machine. On a GPU: wall seconds, synchronized. The losses of both loops must agree,
else the comparison is refused. `--json FILE` keeps the records.
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
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

# The files beside this one must not be taken for the packages of their names.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

KEYS = ("case", "metric", "value", "unit", "peer", "peer_value", "ratio", "device")
MODELS = ("sotu-neox-64x2", "sotu-neox-64x4", "sotu-llama-64x4", "sotu-bloom-64x4")
LOOPS = ("ours", "plain", "bf16", "fp16")
HALF = ("bf16", "fp16")
WARM_UP = 2


def measure(name: str, loop: str, threads: int, steps: int) -> dict[str, Any]:
    """Tokens a second of `steps` steps after warm-up, and the losses of all steps."""
    from training.memory import keep_freed_memory

    if loop != "plain":
        keep_freed_memory()
    import torch

    from training.ladder import ladder_recipe

    torch.set_num_threads(threads)
    gpu = torch.cuda.is_available()
    recipe = replace(ladder_recipe(name), dtype=loop if loop in HALF else "fp32")
    stream = torch.randint(2048, (500_000,), generator=torch.Generator().manual_seed(0))
    step = plain_loop(recipe, stream) if loop == "plain" else our_loop(recipe, stream)
    losses = [step() for _ in range(WARM_UP)]
    clock = time.process_time if threads == 1 and not gpu else time.perf_counter
    seconds, wall = [], time.perf_counter()
    for _ in range(steps):
        started = clock()
        losses.append(step())
        if gpu:
            torch.cuda.synchronize()
        seconds.append(clock() - started)
    tokens = recipe.batch_size * recipe.context
    device = torch.cuda.get_device_name() if gpu else f"{platform.machine()}, 1 thread"
    in_all = steps * tokens / (time.perf_counter() - wall)
    return {"rate": tokens / min(seconds), "wall": in_all, "losses": losses, "device": device}


def our_loop(recipe: Any, stream: Any) -> Callable[[], float]:
    from training.loop import TrainingRun

    run = TrainingRun(recipe, stream, end_of_text_id=0)

    def step() -> float:
        run.step()
        return run.history.losses[-1]

    return step


def plain_loop(recipe: Any, stream: Any) -> Callable[[], float]:
    """What one writes from the libraries' documentation, with the recipe's hyper-parameters."""
    import torch
    from transformers import AutoModelForCausalLM

    from training.architectures import model_config
    from training.schedule import batch_at, learning_rate_at

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(recipe.seed)
    model = AutoModelForCausalLM.from_config(model_config(recipe, 0)).to(device).train()
    decayed = [p for p in model.parameters() if p.dim() >= 2]
    others = [p for p in model.parameters() if p.dim() < 2]
    groups = [
        {"params": decayed, "weight_decay": recipe.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=recipe.betas)
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: learning_rate_at(step, recipe) / recipe.learning_rate
    )
    taken = iter(range(10**9))

    def step() -> float:
        ids = batch_at(next(taken), stream, recipe).to(device)
        inputs, targets = ids[:, :-1], ids[:, 1:].contiguous()
        loss = model(input_ids=inputs, labels=inputs, shift_labels=targets).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_norm)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        return loss.item()

    return step


def start(name: str, loop: str, threads: int, steps: int) -> subprocess.Popen[str]:
    command = [sys.executable, __file__, "--one", name, loop, str(threads), "--steps", str(steps)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
    )


def ended(process: subprocess.Popen[str]) -> dict[str, Any]:
    out, _ = process.communicate()
    assert process.returncode == 0, process.args
    return json.loads(out.splitlines()[-1])


def two_cores(name: str, rounds: int, steps: int, note: Callable[..., None]) -> None:
    """Two of our runs at once beside a plain loop that has both cores."""
    ours, plain = [], []
    for _ in range(rounds):
        both = [start(name, "ours", 1, steps) for _ in range(2)]
        ours.append(sum(ended(process)["wall"] for process in both))
        plain.append(ended(start(name, "plain", 2, steps))["wall"])
    rate, peer = statistics.median(ours), statistics.median(plain)
    device = f"{platform.machine()}, 2 cores, {datetime.date.today()}"
    told = ("training, two cores", rate, "tokens/s", "transformers + AdamW", peer)
    note(name, *told, rate / peer, device)


def compare(name: str, rounds: int, steps: int, note: Callable[..., None]) -> None:
    """All loops in turns. Raises AssertionError where plain and ours train differently."""
    measured: dict[str, list[dict[str, Any]]] = {loop: [] for loop in LOOPS}
    for _ in range(rounds):
        for loop in LOOPS:
            measured[loop].append(ended(start(name, loop, 1, steps)))
    rate = {k: statistics.median(m["rate"] for m in v) for k, v in measured.items()}
    ours, plain = measured["ours"][0]["losses"], measured["plain"][0]["losses"]
    off = max(abs(a - b) for a, b in zip(ours, plain, strict=True))
    assert off < 2e-4, f"{name}: losses of both loops differ by {off}"
    device = f"{measured['ours'][0]['device']}, {datetime.date.today()}"
    told = ("training", rate["ours"], "tokens/s", "transformers + AdamW", rate["plain"])
    note(name, *told, rate["ours"] / rate["plain"], device)
    for half in HALF:
        told = (f"training in {half}", rate[half], "tokens/s", "ours in fp32", rate["ours"])
        note(name, *told, rate[half] / rate["ours"], device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--two-cores", action="store_true", help="also that, on an idle machine")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        name, loop, threads = arguments.one
        print(json.dumps(measure(name, loop, int(threads), arguments.steps)))
        return
    records: list[dict[str, Any]] = []

    def note(*row: Any) -> None:
        records.append(dict(zip(KEYS, row, strict=True)))
        case, metric, value, unit, peer, peer_value, ratio, _ = row
        beside = f"{peer} {peer_value:.0f}"
        print(f"{case:18} {metric:18} {value:8.0f} {unit} {beside:30} {ratio:5.2f}x", flush=True)
        if arguments.json:
            arguments.json.write_text(json.dumps(records, indent=1) + "\n")

    for name in arguments.models:
        compare(name, arguments.rounds, arguments.steps, note)
        if arguments.two_cores:
            two_cores(name, arguments.rounds, 5 * arguments.steps, note)


if __name__ == "__main__":
    main()
