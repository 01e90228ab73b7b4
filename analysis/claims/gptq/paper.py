"""One-shot rounding as `kbit study --paper gptq` asks for it."""

from functools import partial

import plotly.graph_objects as go

from analysis.claims.claim import Claim, Exhibit
from analysis.claims.four_bit.figures import method_figure
from analysis.claims.gptq import optimum, options, practice, scaling, table_1
from analysis.claims.gptq.points import LOSS
from analysis.claims.leads import MULTIPLICITY, RULE
from analysis.claims.paper import Paper, Study
from analysis.curves.points import curve_points


def claims(study: Study) -> list[Claim]:
    """Every claim that these results can test: none without experiments of GPTQ."""
    if not (study.results["method"] == "gptq").any() or curve_points(study.results, LOSS).empty:
        return []
    parts = (table_1, scaling, optimum, practice, options)
    return [claim for part in parts for claim in part.claims(study)]


def exhibits(study: Study) -> list[Exhibit]:
    return list(table_1.exhibits(study))


def _figure_5(study: Study, metric: str) -> go.Figure:
    return method_figure(study.results, metric)


PAPER = Paper(
    name="gptq",
    citation="Dettmers & Zettlemoyer 2023, section 7, on one-shot rounding (GPTQ), and ours",
    title="The study of one-shot rounding",
    folder="gptq-study",
    claims=claims,
    figures={
        "figure-05-one-shot-loss": partial(_figure_5, metric=LOSS),
        "figure-05-one-shot": partial(_figure_5, metric="zero_shot"),
    },
    exhibits=exhibits,
    rule=f"{RULE} Leads at equal bits, and the optimum, have intervals over text alone. "
    f"{MULTIPLICITY}",
)
