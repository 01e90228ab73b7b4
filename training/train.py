"""Train one small language model and save it as fp16 safetensors with a manifest.

The run is a pure function of the recipe, the text and the tokenizer on one kind of device with one
number of threads. A checkpoint every few hundred steps lets an interrupted run go on.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from evaluation.sotu_corpus import heldout_addresses, training_addresses
from training.recipe import Recipe

CHECKPOINT_EVERY = 500


def token_stream(texts: list[str], tokenizer: PreTrainedTokenizerFast) -> torch.Tensor:
    """Documents joined (and closed) by the end-of-text token: int64 ids of shape [n_tokens]."""
    ids: list[int] = []
    for encoding in tokenizer(texts, add_special_tokens=False)["input_ids"]:
        ids += [*encoding, tokenizer.eos_token_id]
    return torch.tensor(ids)


def learning_rate_at(step: int, recipe: Recipe) -> float:
    """Linear warm-up, then cosine decay to `final_lr_fraction` of the peak."""
    if step < recipe.warmup_steps:
        return recipe.learning_rate * (step + 1) / recipe.warmup_steps
    progress = (step - recipe.warmup_steps) / max(1, recipe.steps - recipe.warmup_steps)
    cosine = 0.5 * (1 + math.cos(math.pi * progress))
    return recipe.learning_rate * (
        recipe.final_lr_fraction + (1 - recipe.final_lr_fraction) * cosine
    )


def batch_at(step: int, stream: torch.Tensor, recipe: Recipe) -> torch.Tensor:
    """Windows at random starts: int64 [batch_size, context + 1]. Depends on seed and step alone."""
    generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + step)
    starts = torch.randint(len(stream) - recipe.context, (recipe.batch_size,), generator=generator)
    return stream[starts[:, None] + torch.arange(recipe.context + 1)]


def parameter_groups(model: torch.nn.Module, recipe: Recipe) -> list[dict[str, Any]]:
    """Weight decay acts on matrices, not on biases and layer norms."""
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    return [
        {"params": matrices, "weight_decay": recipe.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]


@torch.no_grad()
def heldout_loss(model: torch.nn.Module, stream: torch.Tensor, context: int) -> float:
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


def train(
    recipe: Recipe,
    tokenizer: PreTrainedTokenizerFast,
    output: Path,
    log: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Train `recipe` and write `output`/{config.json, model.safetensors, manifest.json}.

    Uses the GPU if there is one. Returns the manifest.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_num_threads(recipe.threads)
    torch.manual_seed(recipe.seed)
    started = time.time()
    stream = token_stream(training_addresses(), tokenizer)
    heldout = token_stream(heldout_addresses(), tokenizer)
    model = AutoModelForCausalLM.from_config(recipe.model_config(tokenizer.eos_token_id))
    model.to(device).train()
    optimizer = torch.optim.AdamW(
        parameter_groups(model, recipe), lr=recipe.learning_rate, betas=recipe.betas, fused=True
    )

    output.mkdir(parents=True, exist_ok=True)
    checkpoint = output / "checkpoint.pt"
    step = 0
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True)
        if saved["recipe"] == json.dumps(recipe.as_dict()):
            model.load_state_dict(saved["model"])
            optimizer.load_state_dict(saved["optimizer"])
            step = saved["step"]
            log(f"continuing from step {step}")
    while step < recipe.steps:
        batch = batch_at(step, stream, recipe).to(device)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate_at(step, recipe)
        logits = model(input_ids=batch[:, :-1]).logits.float()
        loss = cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        step += 1
        if step % 100 == 0:
            rate = (time.time() - started) / step
            log(f"step {step}/{recipe.steps}  loss {loss.item():.4f}  {rate:.3f} s/step")
        if step % CHECKPOINT_EVERY == 0 and step < recipe.steps:
            partial = checkpoint.with_suffix(".partial")
            torch.save(
                {
                    "recipe": json.dumps(recipe.as_dict()),
                    "model": model.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "step": step,
                },
                partial,
            )
            os.replace(partial, checkpoint)

    model.eval().half().save_pretrained(output, safe_serialization=True)
    checkpoint.unlink(missing_ok=True)
    weights = (output / "model.safetensors").read_bytes()
    manifest = {
        "recipe": recipe.as_dict(),
        "corpus": "sotu, every tenth address by date held out",
        "n_params": sum(p.numel() for p in model.parameters()),
        "linear_params": recipe.linear_params,
        "tokens_seen": recipe.steps * recipe.batch_size * recipe.context,
        # Measured on the weights as shipped: fp16 values, fp32 arithmetic.
        "heldout_loss": heldout_loss(model.float(), heldout, recipe.context),
        "heldout_tokens": len(heldout),
        "sha256": hashlib.sha256(weights).hexdigest(),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else platform.machine(),
        "seconds": round(time.time() - started, 1),
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
    }
    (output / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
    log(f"held-out loss {manifest['heldout_loss']:.4f} nats/token -> {output}")
    return manifest
