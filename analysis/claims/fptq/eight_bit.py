"""Eight bits on both sides, by method: the slides' table of what fails at scale."""

import pandas as pd

from analysis.claims.claim import Exhibit, table
from analysis.claims.fptq.recipes import FULL, accuracies
from analysis.claims.fptq.table_rows import accuracy_rows, place_of, table_body
from quantizers.setting import Setting

_MEANS = {"Four tasks": "paper", "sotu": "sotu"}


def _smooth_tensor(activations: str) -> str:
    """The label that names SmoothQuant on weights with one scale a tensor."""
    factors = {"block_size": None, "folding": {"smoothquant": 0.5}}
    return Setting.make(8, "int", **factors, activations={activations: 8}).label


# The slides' table: its name of a method -> recipe here, and the printed accuracies.
_EIGHT_BIT: dict[str, tuple[str, tuple[float, ...]]] = {
    "FP16": (FULL, (71.6, 68.2, 73.8)),
    "W8A8": ("w8a8-naive", (32.3, 64.2, 26.9)),
    "ZeroQuant": ("zeroquant", (31.7, 67.4, 26.7)),
    "LLM.int8()": ("llm-int8", (71.4, 68.0, 73.8)),
    "Outlier Suppression": ("", (31.7, 54.1, 63.5)),
    "SmoothQuant-O1": (_smooth_tensor("token"), (71.2, 68.3, 73.7)),
    "SmoothQuant-O2": ("", (71.1, 68.4, 72.5)),
    "SmoothQuant-O3": (_smooth_tensor("tensor"), (71.1, 67.4, 72.8)),
}


def eight_bits(rows: pd.DataFrame, results: pd.DataFrame) -> Exhibit:
    """`rows`: experiments with their recipes, `results`: with their scores."""
    scores = accuracies(results, _MEANS)
    found = [
        [model, method, *cells]
        for method, (recipe, _) in _EIGHT_BIT.items()
        for model, cells in accuracy_rows(rows, scores, recipe)
    ]
    found.sort(key=lambda row: place_of(rows, row[0]))
    printed = [[name, *(f"{x:.1f}" for x in values)] for name, (_, values) in _EIGHT_BIT.items()]
    known = {row[1] for row in found}
    missing = [name for name, (recipe, _) in _EIGHT_BIT.items() if recipe and name not in known]
    return Exhibit(
        "Eight bits on both sides, by method",
        "the table “Vectorwise INT8 methods fail at scale?” in the slides of Ahmadian et al. 2023",
        [
            *table_body(["Model", "Method"], scores, found, missing),
            "Not here: Outlier Suppression, which is not implemented; SmoothQuant-O2, whose one "
            "scale a tensor at run time reads the tokens that are to be predicted; GLM-130B, which "
            "is no causal model of `transformers`. W8A8 has static scales here. As printed, mean "
            "accuracy in % on tasks that are not named:",
            table(["Method", "OPT-175B", "BLOOM-176B", "GLM-130B"], printed),
        ],
    )
