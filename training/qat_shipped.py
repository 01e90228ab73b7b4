"""A model after quantization-aware training, as it is shipped: marked by method and tokens."""

from __future__ import annotations

import hashlib
import json
import platform
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

from quantizers.setting import Setting
from training.qat import Comparison, QatRecipe, compared, qat, window_losses

METHOD = "llm-qat"


def train_and_ship(
    model: Any, recipe: QatRecipe, heldout: Tensor, context: int, folder: Path
) -> dict[str, Any]:
    """Train in place and write config.json, model.safetensors and, last, manifest.json.

    heldout: int64 [n], token ids that both models are scored on, at the widths trained for and at
    16 bit, in windows of `context`. Returns the manifest. Raises ValueError as `qat` and `compared`
    do, before any training where it can.
    """
    settings = {str(recipe.widths): recipe.widths.setting, "16 bit": Setting.make(16)}
    before = {name: window_losses(model, s, heldout, context) for name, s in settings.items()}
    for losses in before.values():
        compared(losses, losses, context)
    divergences = qat(model, recipe, log=lambda line: print(line, flush=True))
    found: dict[str, Comparison] = {}
    for name, setting in settings.items():
        after = window_losses(model, setting, heldout, context)
        found[name] = compared(before[name], after, context)
    folder.mkdir(parents=True, exist_ok=True)
    saved = {n: p.data for n, p in model.named_parameters()}
    model.half()
    model.config.dtype = torch.float16
    model.save_pretrained(folder)
    for name, parameter in model.named_parameters():
        parameter.data = saved[name]
    on_gpu = model.device.type == "cuda"
    manifest = {
        "method": METHOD,
        "widths": str(recipe.widths),
        "recipe": recipe.as_dict(),
        "training_tokens": recipe.tokens,
        "training_text": "written by the 16-bit model",
        "first_divergence": divergences[0],
        "last_divergence": divergences[-1],
        "heldout": {name: asdict(comparison) for name, comparison in found.items()},
        "n_params": sum(p.numel() for p in model.parameters()),
        "sha256": hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest(),
        "device": torch.cuda.get_device_name() if on_gpu else platform.machine(),
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
    return manifest
