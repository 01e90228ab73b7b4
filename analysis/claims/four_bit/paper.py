"""The case for 4-bit precision as `kbit study` asks for it."""

from collections.abc import Callable
from functools import partial

import pandas as pd
import plotly.graph_objects as go

from analysis.claims.claim import Claim
from analysis.claims.four_bit.additions import addition_claims
from analysis.claims.four_bit.factors import factor_claims
from analysis.claims.four_bit.figures import FIGURES, LOSS
from analysis.claims.four_bit.fits import fit_claims
from analysis.claims.four_bit.high_precision import high_precision_claims
from analysis.claims.four_bit.optimum import linear_only, optimum_claims
from analysis.claims.four_bit.tuning import tuning_claims
from analysis.claims.paper import Figure, Paper, Study


def claims(study: Study) -> list[Claim]:
    """Every claim that these results can test; `study.axes`: sizes counted in section 5.1."""
    results, scores = study.results, study.scores
    linear = linear_only(results)
    return [
        *optimum_claims(results, scores, study.axes),
        *factor_claims(linear, scores),
        *high_precision_claims(linear, scores),
        *addition_claims(results, scores),
        *tuning_claims(linear, scores),
        *fit_claims(linear),
    ]


def _of_linear(draw: Callable[[pd.DataFrame], go.Figure]) -> Figure:
    return lambda study: draw(linear_only(study.results))


PAPER = Paper(
    name="four-bit",
    citation="Dettmers & Zettlemoyer 2023, *The case for 4-bit precision*",
    title="The embedded study",
    folder="embedded-study",
    claims=claims,
    # Effects of factors are drawn by loss, as they are tested.
    figures={
        "figure-02-total-bits": _of_linear(FIGURES["figure-02-total-bits"]),
        "figure-04-proxy-outliers": _of_linear(
            partial(FIGURES["figure-04-proxy-outliers"], metric=LOSS)
        ),
        "figure-12-exponent-bits": _of_linear(
            partial(FIGURES["figure-12-exponent-bits"], metric=LOSS)
        ),
        "figure-13-total-bits-loss": _of_linear(FIGURES["figure-13-total-bits-loss"]),
        "figure-14-data-type-loss": _of_linear(FIGURES["figure-14-data-type-loss"]),
        "figure-15-block-size-loss": _of_linear(FIGURES["figure-15-block-size-loss"]),
    },
)
