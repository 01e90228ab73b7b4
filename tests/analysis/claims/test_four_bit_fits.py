"""The verdict on how perplexity and accuracy agree."""

import numpy as np
import pandas as pd
import pytest

from analysis.claims.claim import FAILS, HOLDS, OPEN, PARTLY, UNKNOWN
from analysis.claims.four_bit.fits import _agree


@pytest.mark.parametrize(
    ("intervals", "verdict"),
    [
        ([(-0.97, -0.93), (-0.95, -0.91)], HOLDS),
        ([(-0.97, -0.93), (-0.95, -0.80)], PARTLY),
        ([(-0.96, 0.37), (-0.95, -0.91)], OPEN),  # it holds both -0.94 and no agreement at all
        ([(-0.60, -0.30), (-0.95, -0.91)], FAILS),
        ([(np.nan, np.nan)], UNKNOWN),
    ],
)
def test_a_verdict_is_never_against_its_own_interval(intervals, verdict) -> None:
    low, high = (pd.Series(ends) for ends in zip(*intervals, strict=True))
    assert _agree(low, high) == verdict
