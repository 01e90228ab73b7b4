"""A trained model as it is shipped: fp16 safetensors in the hub's format, and a manifest."""

from __future__ import annotations

import copy
import hashlib
import json
import platform
import statistics
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from torch.nn.functional import cross_entropy

from training.loop import TrainingRun
from training.text import Streams

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
HELDOUT_TOKENS_ON_THE_WAY = 65_536  # held-out text that a model kept before the end is measured on


def ship(run: TrainingRun, streams: Streams, folder: Path, seconds: float) -> dict[str, Any]:
    """Write config.json, model.safetensors and, last, manifest.json; returns the manifest.

    The run is not disturbed and may go on.
    """
    ended = run.history.step == run.recipe.steps
    heldout = streams.heldout if ended else streams.heldout[:HELDOUT_TOKENS_ON_THE_WAY]
    model = copy.deepcopy(run.model).eval()
    with torch.no_grad():
        for parameter, master in zip(model.parameters(), run.weights.parameters, strict=True):
            parameter.data = master.detach().half()
    model.config.dtype = torch.float16
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder, safe_serialization=True)
    weights = (folder / "model.safetensors").read_bytes()
    recipe, history, cuda = run.recipe, run.history, run.device.type == "cuda"
    manifest = {
        "recipe": recipe.as_dict(),
        "corpus": streams.name,
        "step": history.step,
        "n_params": sum(p.numel() for p in model.parameters()),
        "linear_params": recipe.linear_params,
        "tokens_seen": history.step * recipe.batch_size * recipe.context,
        # Measured on the weights as shipped: fp16 values, fp32 arithmetic.
        "heldout_loss": heldout_loss(model.float(), heldout, recipe.context),
        "heldout_tokens": len(heldout),
        "training_loss": statistics.fmean(history.losses[-50:]),
        "gradient_norms": {str(q): _quantile(history.norms, q) for q in QUANTILES},
        "clipped_steps": history.clipped,
        "skipped_steps": history.skipped,
        "sha256": hashlib.sha256(weights).hexdigest(),
        "device": torch.cuda.get_device_name() if cuda else platform.machine(),
        "seconds": round(seconds, 1),
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
    return manifest


@torch.no_grad()
def heldout_loss(model: torch.nn.Module, stream: Tensor, context: int) -> float:
    """Mean cross-entropy in nats per token over non-overlapping windows of the stream."""
    device = next(model.parameters()).device
    total, count = 0.0, 0
    windows = list(stream.split(context + 1))
    for window in windows:
        if len(window) < 2:
            continue
        ids = window.to(device)[None]
        logits = model(input_ids=ids[:, :-1]).logits.float()
        total += cross_entropy(logits[0], ids[0, 1:], reduction="sum").item()
        count += len(window) - 1
    return total / count


def _quantile(values: list[float], q: float) -> float:
    """The value at rank q of the sorted values, without interpolation."""
    return sorted(values)[min(len(values) - 1, int(q * len(values)))]
