"""Figure 5: GPTQ without blocks beside float in blocks, at equal size."""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from analysis.claims.claim import Claim, alike, between, resolved, table
from analysis.claims.gptq.points import FLOAT_BLOCK, LOSS, losses, nearest, one_shot, versus
from analysis.claims.paper import Study
from analysis.curves.scaling import Curve, FloatArray, scaling_curves
from analysis.curves.settings import settings_of
from analysis.findings.duels import entrants
from analysis.findings.families import lead_replicates
from analysis.noise.bootstrap import ItemScores
from analysis.noise.spread import INTERVAL

ALIKE = 0.2  # of what the fourth bit gains: curves closer than that scale alike
ENDS = [(1 - INTERVAL) / 2, (1 + INTERVAL) / 2]


def claims(study: Study) -> Iterator[Claim]:
    points = losses(study.results)
    curves = scaling_curves(study.results, LOSS)
    for make in (_worse, _similar):
        if claim := make(points, curves, study.scores):
            yield claim


def _curves(curves: list[Curve], points: pd.DataFrame, wanted: dict[str, object]) -> dict:
    """Family -> curve of one setting."""
    settings = set(settings_of(entrants(points, **wanted)))
    return {curve.family: curve for curve in curves if curve.setting in settings}


def _race(
    bits: int, points: pd.DataFrame, curves: list[Curve], scores: ItemScores
) -> tuple[list[list[str]], float, FloatArray] | None:
    """GPTQ in one block a tensor against float in blocks: rows by family, mean lead, replicates."""
    ours = _curves(curves, points, one_shot(bits, None))
    floats = _curves(curves, points, nearest(bits, FLOAT_BLOCK))
    rows, leads, replicates = [], [], []
    for family in ours:
        found = lead_replicates(ours[family], floats[family], scores) if family in floats else None
        if found:
            lead, noisy, share = found
            interval = between(*np.quantile(noisy, ENDS))
            rows.append([family, f"{lead:+.4f}", interval, f"{share:.0%}"])
            leads.append(lead)
            replicates.append(noisy)
    return (rows, float(np.mean(leads)), np.mean(replicates, axis=0)) if rows else None


_COLUMNS = ["Family", "Lead of GPTQ (nats)", "90 % interval", "Ahead at"]
_HOW = (
    "Lead of GPTQ (int, one block a tensor) over float in blocks of 64 at equal total bits, the "
    "mean over budgets that both curves of a family reach; the verdict is on the mean over "
    "families."
)


def _worse(points: pd.DataFrame, curves: list[Curve], scores: ItemScores) -> Claim | None:
    race = _race(3, points, curves, scores)
    if race is None:
        return None
    rows, lead, noisy = race
    low, high = (float(end) for end in np.quantile(noisy, ENDS))
    return Claim(
        "3-bit GPTQ without blocks scales worse than 3-bit float with them",
        "section 7, figure 5",
        "GPTQ needs blocks: in one block a tensor its 3 bits scale worse than float in blocks of "
        "64.",
        resolved(-high, -low),
        f"GPTQ's lead at equal bits is {lead:+.4f} nats ({between(low, high)})",
        [f"{_HOW} The claim holds if the whole interval is below 0.", table(_COLUMNS, rows)],
        ["figure-05-one-shot-loss"],
    )


def _similar(points: pd.DataFrame, curves: list[Curve], scores: ItemScores) -> Claim | None:
    race = _race(4, points, curves, scores)
    bit = versus(points, nearest(4, FLOAT_BLOCK), nearest(3, FLOAT_BLOCK), scores)
    if race is None or bit is None:
        return None
    rows, lead, noisy = race
    low, high = (float(end) for end in np.quantile(noisy, ENDS))
    margin = ALIKE * abs(bit.value)
    return Claim(
        "4-bit GPTQ without blocks scales like 4-bit float with them",
        "section 7, figure 5",
        "At 4 bit, GPTQ in one block a tensor scales as float in blocks of 64 does.",
        alike(low, high, margin),
        f"GPTQ's lead at equal bits is {lead:+.4f} nats ({between(low, high)}); alike is within "
        f"{margin:.4f}",
        [
            f"{_HOW} “Alike” is within {ALIKE:.0%} of what a model gains from 3-bit to 4-bit float "
            f"({bit.value:.4f} nats, {len(bit.found.pairs)} models). The claim holds if the whole "
            "interval lies within that, and does not if it lies outside.",
            table(_COLUMNS, rows),
        ],
        ["figure-05-one-shot-loss"],
    )
