"""`kbit plant`: models with outliers planted, whose function is what it was, to sweep like any."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from orchestrator.arguments import positive, whole
from orchestrator.errors import InputError
from orchestrator.outputs import folder_to_fill, writing

EXAMPLE = (
    "example: kbit plant sotu-llama-64x2 --channels 1 4 --factor 10 64 --output results/planted\n"
    "         kbit sweep sweeps/fptq-planted.yaml --models results/planted/models.yaml\n"
    "Some features of every norm are made larger, and what reads them smaller by as much: the\n"
    "16-bit function stays, activations gain the outliers of large models. Each is a family of\n"
    "its own in the models.yaml that is written."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", nargs="+", help="models or whole families of models.yaml")
    parser.add_argument("--models", type=Path, help="another models.yaml")
    parser.add_argument("--channels", type=whole(1), nargs="+", default=[4], help="of a norm (4)")
    parser.add_argument("--factor", type=positive, nargs="+", default=[64.0], help="how large (64)")
    parser.add_argument("--seed", type=whole(0), default=0, help="which features (0)")
    parser.add_argument("--output", type=Path, required=True, help="folder for the models")


def run(args: argparse.Namespace) -> int:
    folder = folder_to_fill(args.output)
    import yaml

    from kbit.chosen_models import chosen_models
    from orchestrator.run.worker import quiet_libraries

    quiet_libraries()

    families: dict[str, Any] = {}
    for entry in chosen_models(args.model, args.models):
        for channels in args.channels:
            for factor in args.factor:
                told = f"{channels}x{factor:g}"
                name = f"{entry.name}-{told}"
                _write(entry, (channels, factor, args.seed), folder / name)
                tokenizer = entry.tokenizer or entry.source
                made: dict[str, Any] = {"name": name, "path": name, "tokenizer": tokenizer}
                made |= {"dtype": entry.dtype}
                made |= {"context": entry.context} if entry.context else {}
                family = families.setdefault(f"{entry.family} planted {told}", {"models": []})
                family["models"].append(made)
    listing = folder / "models.yaml"
    with writing(listing):
        listing.write_text(yaml.safe_dump({"families": families}, sort_keys=False))
    print(f"{sum(len(f['models']) for f in families.values())} models: {listing}")
    return 0


def _write(entry: Any, planted: tuple[int, float, int], folder: Path) -> None:
    """The model with outliers, in fp32, as a local directory in the hub's format."""
    import torch

    from quantizers.loading import load_model
    from quantizers.plant import plant

    model: Any = load_model(entry.checkpoint, "cpu")[0].to(torch.float32)
    try:
        plant(model, *planted)
    except ValueError as error:
        raise InputError(f"{entry.name}: {' '.join(str(error).split())}") from None
    with writing(folder):
        model.save_pretrained(folder)
