"""Planted outliers, the positive control: what collapses under them, and what does not."""

from collections.abc import Iterator

import pandas as pd

from analysis.claims.claim import JOINTLY, Claim, jointly, table
from analysis.claims.fptq.recipes import FULL, PLANTED, Measure, measures, versus
from analysis.claims.leads import COLUMNS
from analysis.claims.paper import Study
from quantizers.setting import Setting

_STATIC = {"block_size": "row", "activations": {"tensor": 8}}


def _eight_bit(**factors: object) -> str:
    """The label that names 8-bit integer weights a row with static activations."""
    return Setting.make(8, "int", **(_STATIC | factors)).label


STATIC = _eight_bit()
REMEDIES = {
    "logarithmic equalization": _eight_bit(folding={"logarithmic": 1.0}),
    "SmoothQuant": "smoothquant-w8a8-static",
    "rotation": _eight_bit(folding={"hadamard": {"seed": 0}}),
    "a scale a token": "vectorwise-w8a8",
}
"""Name -> recipe of the same 8 bits on both sides."""


def claims(study: Study) -> Iterator[Claim]:
    there = measures(study, planted=True)
    if there and (claim := _recover(study, there[0])):
        yield claim


def _recover(study: Study, measure: Measure) -> Claim | None:
    rows, verdicts = [], []
    families = sorted(set(measure.points["family"]))
    kinds = dict.fromkeys(name.split(PLANTED)[1] for name in families)
    for kind in kinds:
        one = Measure(measure.name, measure.metric, _of_kind(measure.points, kind))
        for name, recipe in REMEDIES.items():
            remedy, static = one.of(recipe), one.of(STATIC)
            static = static[static["model"].isin(remedy["model"])]
            found = versus(one, study, remedy, static)
            lost = versus(one, study, static, one.of(FULL))
            left = versus(one, study, remedy, one.of(FULL))
            if found is None or lost is None or left is None:
                continue
            verdicts.append(found.verdict())
            rows.append([kind, name, lost.shown, left.shown, *found.cells, verdicts[-1]])
    if not rows:
        return None
    return Claim(
        "Under planted outliers static scales lose what the remedies keep",
        "ours, a positive control: section 3.3.1 says why",
        "Where a few channels are large, one static scale a tensor loses accuracy that "
        "equalization, rotation and scales a token keep.",
        jointly(verdicts),
        f"remedies clearly ahead of a static scale in {verdicts.count('holds')} of {len(rows)} "
        f"comparisons, by {measure.name}",
        [
            "Outliers are planted: some channels of every norm are multiplied, what reads them is "
            "divided, so that the 16-bit function stays. 4x64: four channels by 64. 8-bit integer "
            "weights a row and 8-bit activations throughout. "
            f"{JOINTLY}",
            table(
                ["Planted", "Remedy", "Static loses", "Remedy loses", "Remedy's lead",
                 *COLUMNS[1:], "Claim"],
                rows,
                text=2,
            ),
        ],
    )  # fmt: skip


def _of_kind(points: pd.DataFrame, kind: str) -> pd.DataFrame:
    return points[points["family"].str.endswith(f"{PLANTED}{kind}")]
