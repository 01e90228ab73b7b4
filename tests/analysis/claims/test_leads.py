"""A lead judged over text and over models."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from analysis.claims.claim import FAILS, HOLDS, UNKNOWN, UNRESOLVED
from analysis.claims.leads import Lead
from analysis.findings.duels import Duel


def lead(leads: Sequence[float], error: float = 1e-4) -> Lead:
    """Of these models, each known over text to `error`."""
    pairs = pd.DataFrame({"model": range(len(leads)), "lead": leads})
    return Lead(Duel(float(np.mean(leads)), error, np.inf, pairs, 0), "cross-entropy")


def test_a_lead_is_judged_over_text_and_over_models() -> None:
    alike, apart = [0.01, 0.011, 0.012, 0.011], [0.05, -0.03, 0.06, -0.02]
    assert lead(alike).verdict() == HOLDS and lead([-x for x in alike]).verdict() == FAILS
    assert lead(apart).value > 0 and lead(apart).over_text[0] > 0
    assert lead(apart).verdict() == lead([-x for x in apart]).verdict() == UNRESOLVED
    assert lead(alike, 0.1).verdict() == UNRESOLVED and lead(alike, np.nan).verdict() == UNKNOWN
    assert lead([0.01]).verdict() == UNRESOLVED  # one model says nothing of others
    assert lead([-0.001, -0.0012]).verdict(0.01) == HOLDS
    low, high = lead([1.0, 2.0, 3.0]).over_models  # 2 -+ 2.92 / sqrt(3), of two degrees of freedom
    assert (round(low, 3), round(high, 3)) == (0.314, 3.686)


def test_a_model_counts_once_however_many_settings_it_has() -> None:
    found = lead([1.0, 2.0, 3.0])
    twice = pd.concat([found.found.pairs] * 2, ignore_index=True)
    assert Lead(replace(found.found, pairs=twice), "").over_models == found.over_models


def test_leads_are_shown_in_their_unit() -> None:
    found = replace(lead([0.012, 0.014]), unit=100.0, digits=2)
    assert found.cells == ["+1.30", "+1.28 to +1.32", "+0.67 to +1.93", "2 of 2"]
