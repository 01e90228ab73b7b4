"""`kbit qat`: LLM-QAT, the trained baseline of W4A8: a checkpoint that is scored like any model."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.arguments import positive, whole
from orchestrator.errors import InputError
from orchestrator.outputs import folder_to_fill, results_folder, writing

if TYPE_CHECKING:
    from orchestrator.study.models import ModelEntry
    from training.qat import QatRecipe

EXAMPLE = (
    "example: kbit qat sotu-neox-64x2 --weights 4 --activations 8 --kv 8 --learning-rate 1e-3\n"
    "         kbit sweep my-sweep.yaml --models results/qat/sotu-neox-64x2-llm-qat-w4a8kv8/"
    "models.yaml\n"
    "The 16-bit model writes the text and is the teacher. Rows of the new model say so in their\n"
    "column variant; quantize it by `recipe: vectorwise-w8a8` with `bits: 4` (kv beside it) to\n"
    "get what it was trained for."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="a name of models.yaml")
    parser.add_argument("--models", type=Path, help="another models.yaml")
    parser.add_argument("--weights", type=whole(2, 16), default=4, help="bits, by row (4)")
    parser.add_argument("--activations", type=whole(2, 16), default=8, help="bits, by token (8)")
    parser.add_argument("--kv", type=whole(2, 16), help="bits of keys and values, by token (16)")
    parser.add_argument("--steps", type=whole(1), default=200)
    parser.add_argument("--batch-size", type=whole(1), default=8, help="sequences a step (8)")
    parser.add_argument("--length", type=whole(2), help="tokens a sequence (256, or the context)")
    parser.add_argument("--learning-rate", type=positive, default=2e-5, help="the paper's 2e-5")
    parser.add_argument("--seed", type=whole(0), default=0)
    parser.add_argument("--text", default="sotu", help="scored before and after; a folder of .txt")
    parser.add_argument(
        "--heldout-tokens", type=whole(2), default=32768, help="of it, at most (32768)"
    )
    parser.add_argument("--output", type=Path, help="folder (default: results/qat/NAME)")


def run(args: argparse.Namespace) -> int:
    output = folder_to_fill(args.output) if args.output else results_folder() / "qat"
    import yaml
    from lm_eval.models.utils import resolve_max_length

    from kbit.chosen_models import chosen_model
    from orchestrator.run.worker import quiet_libraries
    from quantizers.loading import load_model
    from training.fake_quantization import Widths
    from training.qat_shipped import METHOD, train_and_ship
    from training.text import load_text, token_streams

    entry = chosen_model(args.model, args.models)
    try:
        widths = Widths(args.weights, args.activations, args.kv)
        _ = widths.setting
        _recipe(args, widths, args.length or 256)
        text = load_text(args.text)
    except ValueError as error:
        raise InputError(str(error)) from None
    quiet_libraries()
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    loaded, tokenizer = load_model(entry.checkpoint, device)
    model: Any = loaded.to(torch.float32)
    context = entry.context or resolve_max_length(model.config, tokenizer)
    name = f"{entry.name}-{METHOD}-{str(widths).lower()}"
    folder = output if args.output else output / name
    try:
        recipe = _recipe(args, widths, args.length or min(256, context))
        if recipe.length > context:
            raise ValueError(f"length: {recipe.length} tokens exceed the {context} it reads")
        heldout = token_streams(text, tokenizer).heldout[: args.heldout_tokens]
        with writing(folder):
            manifest = train_and_ship(model, recipe, heldout, context, folder)
    except ValueError as error:
        raise InputError(f"{entry.name}: {error}") from None
    variant = f"{METHOD} {widths}, {recipe.tokens} tokens"
    listing = folder / "models.yaml"
    with writing(listing):
        listing.write_text(yaml.safe_dump(_listing(entry, name, variant, recipe), sort_keys=False))
    for setting, found in manifest["heldout"].items():
        print(
            f"{setting}: {found['before']:.4f} before, {found['after']:.4f} after, difference "
            f"{found['difference']:+.4f} +- {found['stderr']:.4f} nats/token (paired, "
            f"{found['n_windows']} windows, {found['tokens']} held-out tokens)"
        )
    print(f"{recipe.tokens} training tokens -> {folder}\nto sweep it: --models {listing}")
    return 0


def _recipe(args: argparse.Namespace, widths: Any, length: int) -> QatRecipe:
    from training.qat import QatRecipe

    return QatRecipe(widths, args.steps, args.batch_size, length, args.learning_rate, args.seed)


def _listing(entry: ModelEntry, name: str, variant: str, recipe: QatRecipe) -> dict[str, Any]:
    """A models.yaml with the model alone, in a family of its own."""
    made: dict[str, Any] = {"name": name, "path": ".", "dtype": "float16"}
    made |= {"tokenizer": entry.tokenizer or entry.source, "variant": variant}
    made |= {"seed": recipe.seed, "step": recipe.steps}
    made |= {"context": entry.context} if entry.context else {}
    return {"families": {f"{entry.family} {variant.split(',')[0]}": {"models": [made]}}}
