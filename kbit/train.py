"""`kbit train`: train an embedded model from its name or reproduce one from its manifest."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

from orchestrator.errors import InputError
from orchestrator.outputs import folder_to_fill
from orchestrator.paths import SHIPPED
from quantizers.plain import plain

EXAMPLE = (
    "example: kbit train sotu-neox-32x2 --output /tmp/sotu-neox-32x2\n"
    "         kbit train models/sotu-neox-32x2/manifest.json --output /tmp/again"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="a name of the ladder, or a manifest.json to reproduce")
    parser.add_argument("--output", type=Path, required=True, help="the model's folder")
    parser.add_argument("--text", default="sotu", help="another text: a folder of .txt documents")
    parser.add_argument(
        "--tokenizer",
        type=Path,
        default=SHIPPED / "models" / "tokenizer",
        help="default: the shared one; trained on the text where there is none",
    )


def run(args: argparse.Namespace) -> int:
    output = folder_to_fill(args.output)
    from training.memory import keep_freed_memory

    keep_freed_memory()  # before torch is imported
    from training.errors import DiskFull
    from training.ladder import ladder_recipe
    from training.recipe import Recipe
    from training.text import load_text
    from training.tokenizer import load_tokenizer, train_tokenizer
    from training.train import train

    manifest = Path(args.model)
    try:
        if manifest.suffix == ".json":
            recipe = Recipe.from_dict(json.loads(manifest.read_text())["recipe"])
        else:
            recipe = ladder_recipe(args.model)
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{args.model}: no usable recipe: {plain(error)}") from None
    try:
        text = load_text(args.text)
        if not os.path.exists(args.tokenizer / "tokenizer.json"):
            made = folder_to_fill(args.tokenizer, "--tokenizer")
            train_tokenizer(text.training, made, recipe.vocab_size, recipe.context)
        tokenizer = load_tokenizer(args.tokenizer)
        train(recipe, tokenizer, output, text, log=lambda line: print(line, flush=True))
    except (ValueError, DiskFull) as error:
        raise InputError(str(error)) from None
    return 0
