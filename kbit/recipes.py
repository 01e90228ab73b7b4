"""`kbit recipes`: what the names in a sweep file's `recipe` stand for."""

from __future__ import annotations

import argparse
import json

import pandas as pd

from kbit.output import add_format, print_frame
from quantizers.recipes import RECIPES

EXAMPLE = "example: kbit recipes"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_format(parser)


def run(args: argparse.Namespace) -> int:
    rows = [
        {
            "recipe": name,
            "factors": json.dumps(dict(recipe.factors)).replace('"', ""),
            "calibration": recipe.setting.needs_statistics,
            "paper": recipe.paper,
        }
        for name, recipe in RECIPES.items()
    ]
    print_frame(pd.DataFrame(rows), args.format)
    return 0
