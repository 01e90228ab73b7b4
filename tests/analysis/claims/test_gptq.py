"""Every claim on GPTQ on three studies whose truth is given, and that it says which one it saw."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from analysis.claims.claim import FAILS, HOLDS, UNKNOWN, UNRESOLVED
from analysis.claims.gptq.paper import PAPER
from analysis.claims.gptq.practice import calibrations
from analysis.claims.gptq.table_1 import PUBLISHED
from analysis.claims.paper import Study
from quantizers.setting import Setting
from tests.analysis.claims.made import made_study, made_verdict, verdicts

TEXT = "c4 128x1024 #0123456789ab"
LESS = "c4 8x1024 #ba9876543210"
LOUD = 3.0  # an error that no difference here stands out of


def gptq(bits: int, data_type: str = "int", block: int | None = 64, **options: object) -> Setting:
    text = options.pop("text", TEXT)
    return Setting.make(
        bits, data_type, block_size=block, rounding={"gptq": options}, calibration=text
    )


def nearest(bits: int, data_type: str = "float", block: int | None = 64) -> Setting:
    return Setting.make(bits, data_type, block_size=block)


verdict = partial(made_verdict, PAPER)


BEATS = "2-bit GPTQ in blocks beats 3-bit float"
WORSE = "3-bit GPTQ without blocks scales worse than 3-bit float with them"
ALIKE = "4-bit GPTQ without blocks scales like 4-bit float with them"
MOVES = "GPTQ moves the bit-optimal precision down"
TYPES = "Under GPTQ, too, quantile and float are the best 4-bit data types"
SHARED = "Hessians of the 16-bit model do as well as sequential ones"
TOKENS = "GPTQ does with less calibration text"
CLIPPED = "Clipped scales are better than absmax, under GPTQ too"
ORDERED = "GPTQ gains by taking columns in the order of their Hessian"
DAMPED = "Ten times the damping makes GPTQ worse"


def table_1(lead: float) -> dict[Setting, float]:
    ours = {gptq(2, block=block): 0.1 - lead for block in PUBLISHED}
    return ours | {nearest(3, block=block): 0.1 for block in PUBLISHED}


def test_two_bits_against_three() -> None:
    assert verdict(BEATS, table_1(0.02)) == HOLDS
    assert verdict(BEATS, table_1(-0.02)) == FAILS
    assert verdict(BEATS, table_1(0.02), LOUD) == UNRESOLVED
    one_block_fails = table_1(0.02) | {gptq(2, block=1024): 0.12}
    assert verdict(BEATS, one_block_fails) == FAILS


def test_what_has_no_errors_is_unknown() -> None:
    study = made_study(table_1(0.02))
    blind = Study(study.results.assign(stderr=np.nan))
    assert verdicts(PAPER.claims(blind))[BEATS] == UNKNOWN


def figure_5(three: float, four: float) -> dict[Setting, float]:
    floats = {nearest(3): 0.1, nearest(4): 0.02}
    return floats | {gptq(3, block=None): 0.1 - three, gptq(4, block=None): 0.02 - four}


def test_without_blocks() -> None:
    # Without blocks a model takes a quarter of a bit less: at equal size that counts as well.
    assert verdict(WORSE, figure_5(three=-0.3, four=0)) == HOLDS
    assert verdict(WORSE, figure_5(three=0.02, four=0)) == FAILS
    assert verdict(WORSE, figure_5(three=-0.3, four=0), LOUD) == UNRESOLVED
    assert verdict(ALIKE, figure_5(three=0, four=-0.01)) == HOLDS
    assert verdict(ALIKE, figure_5(three=0, four=-0.1)) == FAILS
    assert verdict(ALIKE, figure_5(three=0, four=0.1)) == FAILS
    assert verdict(ALIKE, figure_5(three=0, four=-0.01), LOUD) == UNRESOLVED


def optima(three_by_gptq: float) -> dict[Setting, float]:
    to_nearest = {nearest(3, "int"): 0.3, nearest(4, "int"): 0.01}
    return to_nearest | {gptq(3): three_by_gptq, gptq(4): 0.01}


def test_the_optimum_moves_where_three_bits_become_good() -> None:
    assert verdict(MOVES, optima(0.01)) == HOLDS
    assert verdict(MOVES, optima(0.3)) == FAILS
    assert verdict(MOVES, optima(0.01), LOUD) == UNRESOLVED


def types(quantile: float) -> dict[Setting, float]:
    losses = {"int": 0.05, "dynamic": 0.06, "float": 0.03, "quantile": quantile}
    return {gptq(4, name): loss for name, loss in losses.items()}


def test_data_types() -> None:
    assert verdict(TYPES, types(0.02)) == HOLDS
    assert verdict(TYPES, types(0.055)) == FAILS
    assert verdict(TYPES, types(0.02), LOUD) == UNRESOLVED
    without = {s: loss for s, loss in types(0.02).items() if s.data_type != "quantile"}
    assert TYPES not in verdicts(PAPER.claims(made_study(without)))


def hessians(sequential: float) -> dict[Setting, float]:
    shared = {gptq(3): 0.05, nearest(3, "int"): 0.15}
    return shared | {replace(gptq(3), gptq_hessian="sequential"): sequential}


def test_shared_hessians() -> None:
    assert verdict(SHARED, hessians(0.047)) == HOLDS  # the loss is 3 % of what GPTQ gains
    assert verdict(SHARED, hessians(0.06)) == HOLDS
    assert verdict(SHARED, hessians(0.02)) == FAILS
    assert verdict(SHARED, hessians(0.047), LOUD) == UNRESOLVED


def texts(fewer: float) -> dict[Setting, float]:
    return {gptq(3): 0.05, nearest(3, "int"): 0.15, gptq(3, text=LESS): fewer}


def test_tokens() -> None:
    assert verdict(TOKENS, texts(0.053)) == HOLDS
    assert verdict(TOKENS, texts(0.09)) == FAILS
    assert verdict(TOKENS, texts(0.053), LOUD) == UNRESOLVED
    found = calibrations(made_study(texts(0.05)).results)
    assert list(found["tokens"]) == [8192, 131072]


@pytest.mark.parametrize(
    ("title", "better", "other"),
    [
        (CLIPPED, {"scales": "clipped"}, {}),
        (ORDERED, {}, {"gptq_order": False}),
        (DAMPED, {}, {"gptq_damping": 0.1}),
    ],
)
def test_options(title, better, other) -> None:
    def losses(lead: float) -> dict[Setting, float]:
        better_settings = {replace(gptq(bits), **better): 0.1 - lead for bits in (2, 3)}
        return better_settings | {replace(gptq(bits), **other): 0.1 for bits in (2, 3)}

    assert verdict(title, losses(0.02)) == HOLDS
    assert verdict(title, losses(-0.02)) == FAILS
    assert verdict(title, losses(0.02), LOUD) == UNRESOLVED
    one_fails = losses(0.02) | {replace(gptq(3), **better): 0.12}
    assert verdict(title, one_fails) == FAILS
    assert title not in verdicts(PAPER.claims(made_study({gptq(3): 0.1})))


def test_table_1_and_figure_5_come_from_rows() -> None:
    study = made_study(table_1(0.02) | figure_5(-0.3, 0))
    (made,) = PAPER.exhibits(study)
    cells = made.body[1].rows  # type: ignore[union-attr]
    assert cells[0] == ["1024", "the paper's, on WikiText-2", "11.84", "13.26", ""]
    assert len(cells) == 3 + 3 * 8
    loss = study.results.set_index("experiment_id")["value"]["neox-32x2 2-bit int B64 gptq "
                                                            f"on {TEXT}"]  # fmt: skip
    row = next(r for r in cells if r[:2] == ["64", "neox-32x2, wikitext2"])
    assert row[2] == f"{np.exp(loss):.2f}" and row[4] == "+0.0200"
    drawn = PAPER.figures["figure-05-one-shot-loss"](study)
    names = {trace.name for trace in drawn.data}
    assert {"3-bit int per tensor gptq", "3-bit float E2 B64"} <= names


def test_a_study_without_gptq_has_none_of_these_claims() -> None:
    study = made_study({nearest(3): 0.1, nearest(4): 0.02})
    assert PAPER.claims(study) == [] and PAPER.exhibits(study) == []
    with pytest.raises(ValueError, match="one-shot"):
        PAPER.figures["figure-05-one-shot-loss"](study)
