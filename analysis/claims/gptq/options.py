"""What one factor beside the rounding is worth, precision by precision: clipped scales, the order
of columns, damping."""

from collections.abc import Iterator
from dataclasses import dataclass

import pandas as pd

from analysis.claims.claim import JOINTLY, Claim, jointly, table
from analysis.claims.gptq.points import ROUNDINGS, lead, losses
from analysis.claims.leads import COLUMNS, Lead, told
from analysis.claims.paper import Study
from analysis.findings.duels import twins
from analysis.noise.bootstrap import ItemScores


@dataclass(frozen=True)
class _Option:
    title: str
    source: str
    statement: str
    column: str
    better: object
    other: object
    pairs: str  # what is compared, in words


_OPTIONS = (
    _Option(
        "Clipped scales are better than absmax, under GPTQ too",
        "ours",
        "A constant below the largest magnitude of its block, chosen by the error of the block's "
        "weights, gives better models under GPTQ as well.",
        "scales",
        "clipped",
        "absmax",
        "with clipped scales and with absmax",
    ),
    _Option(
        "GPTQ gains by taking columns in the order of their Hessian",
        "ours; an option of its authors' code, there off by default",
        "The columns with the largest diagonal first, when all others can still make up for them.",
        "gptq_order",
        True,
        False,
        "in that order and in the order of the matrix",
    ),
    _Option(
        "Ten times the damping makes GPTQ worse",
        "ours; 0.01 of the mean diagonal is its authors' default",
        "A damping of 0.1 gives worse models than one of 0.01.",
        "gptq_damping",
        0.01,
        0.1,
        "with a damping of 0.01 and of 0.1",
    ),
)


def claims(study: Study) -> Iterator[Claim]:
    points = losses(study.results)
    for option in _OPTIONS:
        if claim := _claim(option, points, study.scores):
            yield claim


def _claim(option: _Option, points: pd.DataFrame, scores: ItemScores) -> Claim | None:
    pairs = twins(points, option.column, option.better, option.other)
    if pairs.empty:
        return None
    leads = {
        (method, float(bits)): found
        for (method, bits), part in pairs.groupby(["method", "bits"])
        if (found := lead(part, scores))
    }
    judged = {bits: found for (method, bits), found in leads.items() if method == "gptq"}
    if not judged:
        return None
    return Claim(
        option.title,
        option.source,
        option.statement,
        jointly([found.verdict() for found in judged.values()]),
        "lead under GPTQ: "
        + "; ".join(f"{bits:g}-bit {told(d.cells, ' nats')}" for bits, d in judged.items()),
        [
            f"The same settings of the same models {option.pairs}. The claim holds if the lead is "
            f"clear at every precision under GPTQ. {JOINTLY}",
            table(["Precision", "Rounding", *COLUMNS], list(_rows(leads)), text=2),
        ],
    )


def _rows(leads: dict[tuple[str, float], Lead]) -> Iterator[list[str]]:
    for (method, bits), found in sorted(leads.items(), key=lambda item: (item[0][1], item[0][0])):
        yield [f"{bits:g}-bit", ROUNDINGS[method], *found.cells]
