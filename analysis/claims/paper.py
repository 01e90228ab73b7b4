"""What a study of a paper is made of: its rows, and what the paper asks of them.

A paper is a folder here with a `paper.py` that names its PAPER; `papers.py` lists them. Statistics
and verdicts are made once, by its claims; Markdown and the report only render them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import pandas as pd
import plotly.graph_objects as go

from analysis.claims.claim import Claim, Exhibit
from analysis.curves.scaling import AXES
from analysis.noise.bootstrap import ItemScores, no_item_scores


@dataclass(frozen=True, eq=False)
class Study:
    """What claims are computed from.

    results: the flat view; scores: its per-item scores; tables: name -> rows that are no scores
    (`sites`: what calibration recorded of activations; `runs`: how models were trained), where a
    study has them; axes: what is counted as size where a claim is asked for each.
    """

    results: pd.DataFrame
    scores: ItemScores = no_item_scores
    tables: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    axes: Sequence[str] = tuple(AXES)


Figure = Callable[[Study], go.Figure]
"""Raises ValueError, saying what is missing, where a study does not have what it shows."""


def nothing(study: Study) -> list[Exhibit]:
    return []


@dataclass(frozen=True)
class Paper:
    """A paper, or a part of one: what it claims, and its tables and figures, from a study's rows.

    title: the heading of its document; folder: where below docs/ its study's results lie;
    claims: those that a study can test, in the paper's order; exhibits: its tables and what it
    says in prose; figures: name -> figure, which claims and exhibits refer to; rule: how verdicts
    are made of what all of its claims have in common, a paragraph.
    """

    name: str
    citation: str
    title: str
    folder: str
    claims: Callable[[Study], Sequence[Claim]]
    figures: Mapping[str, Figure] = field(default_factory=dict)
    exhibits: Callable[[Study], Sequence[Exhibit]] = nothing
    rule: str = ""
