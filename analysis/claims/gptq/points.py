"""The losses that the claims on GPTQ are made of, and what a fraction of a bit is worth there."""

import pandas as pd

from analysis.claims.leads import Lead
from analysis.curves.points import curve_points
from analysis.curves.remembering import once
from analysis.findings.duels import duel, entrants, pair_up
from analysis.noise.bootstrap import ItemScores

LOSS = "cross_entropy"
ROUNDINGS = {"rtn": "nearest", "gptq": "GPTQ"}  # by method
FLOAT_BLOCK = 64  # of the paper's float, which it holds GPTQ against
NEGLIGIBLE = 0.1  # share of what GPTQ gains over nearest: less is no loss worth a claim


def losses(results: pd.DataFrame) -> pd.DataFrame:
    """Every experiment's cross-entropy, by rounding to nearest, GPTQ, or in 16 bit."""
    return once(_losses, results)


def _losses(results: pd.DataFrame) -> pd.DataFrame:
    points = curve_points(results, LOSS)
    return points[points["method"].isin(["none", "rtn", "gptq"])]


def versus(
    points: pd.DataFrame, first: dict[str, object], second: dict[str, object], scores: ItemScores
) -> Lead | None:
    """One setting against another on the models that have both; keys as `entrants` takes."""
    pairs = pair_up(entrants(points, **first), entrants(points, **second))
    return lead(pairs, scores)


def lead(pairs: pd.DataFrame, scores: ItemScores) -> Lead | None:
    """Of the first of `pairs`, in nats."""
    found = duel(pairs, LOSS, scores)
    return None if found is None else Lead(found, LOSS)


def one_shot(bits: int, block: int | None, data_type: str = "int") -> dict[str, object]:
    return {"method": "gptq", "bits": bits, "data_type": data_type, "block_size": block}


def nearest(bits: int, block: int | None, data_type: str = "float") -> dict[str, object]:
    return one_shot(bits, block, data_type) | {"method": "rtn"}
