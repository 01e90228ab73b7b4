"""What GPTQ needs: which data type, which Hessians, how much text."""

from collections.abc import Iterator

import pandas as pd

from analysis.claims.claim import (
    FAILS,
    HOLDS,
    JOINTLY,
    UNRESOLVED,
    Claim,
    jointly,
    table,
)
from analysis.claims.gptq.points import FLOAT_BLOCK, NEGLIGIBLE, ROUNDINGS, lead, losses, versus
from analysis.claims.leads import COLUMNS, Lead, told
from analysis.claims.paper import Study
from analysis.findings.duels import twins
from analysis.noise.bootstrap import ItemScores
from quantizers.data_types import DATA_TYPES

_BEST = ("quantile", "float")  # of rounding to nearest, at 4 bit (section 5.2)


def claims(study: Study) -> Iterator[Claim]:
    points = losses(study.results)
    for make in (_data_types, _hessians, _tokens):
        if claim := make(points, study.scores):
            yield claim


def _over(
    points: pd.DataFrame, scores: ItemScores, first: str, second: str, bits: int, method: str
) -> Lead | None:
    """One data type over another, in the same blocks."""
    both: dict[str, object] = {"method": method, "bits": bits, "block_size": FLOAT_BLOCK}
    return versus(points, both | {"data_type": first}, both | {"data_type": second}, scores)


def _data_types(points: pd.DataFrame, scores: ItemScores) -> Claim | None:
    others = [kind for kind in DATA_TYPES if kind not in _BEST]
    pairs = [(best, other) for best in _BEST for other in others]
    met = {pair: _over(points, scores, *pair, 4, "gptq") for pair in pairs}
    duels = {pair: found for pair, found in met.items() if found}
    if len({best for best, _ in duels}) < len(_BEST):
        return None
    rows = [
        [f"{bits}-bit", name, kind, *found.cells]
        for bits in (2, 3, 4)
        for method, name in ROUNDINGS.items()
        for kind in DATA_TYPES
        if kind != "int" and (found := _over(points, scores, kind, "int", bits, method))
    ]
    return Claim(
        "Under GPTQ, too, quantile and float are the best 4-bit data types",
        "ours; section 5.2 says so of rounding to nearest",
        "The choice of the 4-bit data type carries over from rounding to nearest.",
        jointly([d.verdict() for d in duels.values()]),
        "leads under GPTQ at 4 bit: "
        + "; ".join(f"{a} over {b} {told(d.cells, ' nats')}" for (a, b), d in duels.items()),
        [
            f"In blocks of {FLOAT_BLOCK}, the mean over models. The claim holds if each of the two "
            f"is clearly ahead of every other type. {JOINTLY} Below, leads over int:",
            table(["Precision", "Rounding", "Type", *COLUMNS], rows, text=3),
        ],
    )


def _gain(points: pd.DataFrame, compared: pd.DataFrame, scores: ItemScores) -> Lead | None:
    """What GPTQ, on its usual calibration, gains over nearest at the precisions and on the models
    of `compared` pairs."""
    usual = points.loc[points["method"] == "gptq", "calibration"].mode()
    same = points["bits"].isin(compared["bits"]) & points["model"].isin(compared["model"])
    known = same & (points["calibration"].isna() | points["calibration"].isin(usual[:1]))
    pairs = twins(points[known].assign(calibration=None), "method", "gptq", "rtn")
    return lead(pairs, scores)


def _hessians(points: pd.DataFrame, scores: ItemScores) -> Claim | None:
    one_shot = points[points["method"] == "gptq"]
    pairs = twins(one_shot, "gptq_hessian", "original", "sequential")
    rows, verdicts = [], []
    for bits, part in pairs.groupby("bits"):
        found, gain = lead(part, scores), _gain(points, part, scores)
        if found is None or gain is None:
            continue
        margin = NEGLIGIBLE * abs(gain.value)
        verdicts.append(found.verdict(margin))
        rows.append([f"{bits:g}-bit", *found.cells, gain.shown, verdicts[-1]])
    if not rows:
        return None
    return Claim(
        "Hessians of the 16-bit model do as well as sequential ones",
        "ours; GPTQ's own are of inputs that blocks quantized before have changed",
        "Statistics that all settings share lose nothing worth the passes that sequential ones "
        "take.",
        jointly(verdicts),
        "lead of shared over sequential: "
        + "; ".join(f"{r[0]} {told(r[1:5], ' nats')}" for r in rows),
        [
            "The same settings of the same models, with Hessians of the 16-bit model and with "
            f"sequential ones. “As well” is a loss below {NEGLIGIBLE:.0%} of what GPTQ gains over "
            "nearest on these models at this precision: the claim holds if the lead is above such "
            f"a loss. {JOINTLY}",
            table(["Precision", *COLUMNS, "GPTQ's gain", "Claim"], rows),
        ],
    )


def calibrations(points: pd.DataFrame) -> pd.DataFrame:
    """The calibrations of `points` as columns: calibration, corpus, tokens (of a model's context
    counted as 2,048), the most tokens last."""
    names = pd.Series(sorted(points["calibration"].dropna().unique()), dtype=object)
    found = names.str.extract(r"^(?P<corpus>.+?) (?P<windows>\d+)x(?P<length>\d+|context)\b")
    found = found.assign(calibration=names).dropna()
    length = found["length"].replace("context", "2048").astype(int)
    found = found.assign(tokens=found["windows"].astype(int) * length)
    return found.sort_values("tokens", kind="stable")


def _tokens(points: pd.DataFrame, scores: ItemScores) -> Claim | None:
    one_shot = points[points["method"] == "gptq"]
    known = calibrations(one_shot)
    rows: list[list[str]] = []
    verdicts: dict[tuple[str, int], list[str]] = {}
    for corpus, part in known.groupby("corpus", sort=False):
        most = part.iloc[-1]
        for fewer in part.iloc[:-1].itertuples():
            pairs = twins(one_shot, "calibration", fewer.calibration, most["calibration"])
            for bits, same in pairs.groupby("bits"):
                found, gain = lead(same, scores), _gain(points, same, scores)
                if found is None or gain is None or fewer.tokens == most["tokens"]:
                    continue
                verdict = found.verdict(NEGLIGIBLE * abs(gain.value))
                verdicts.setdefault((str(corpus), fewer.tokens), []).append(verdict)
                rows.append(
                    [
                        str(corpus),
                        f"{fewer.tokens:,} for {most['tokens']:,}",
                        f"{bits:g}-bit",
                        *found.cells,
                        gain.shown,
                        verdict,
                    ]
                )
    if not rows:
        return None
    joint = {key: jointly(each) for key, each in verdicts.items()}
    enough = [(tokens, corpus) for (corpus, tokens), v in joint.items() if v == HOLDS]
    if enough:
        tokens, corpus = min(enough)
        verdict, said = HOLDS, f"{tokens:,} tokens of {corpus} are enough"
    elif set(joint.values()) == {FAILS}:
        verdict, said = FAILS, "none of the smaller calibrations is enough"
    else:
        verdict, said = UNRESOLVED, "no smaller calibration is shown to be enough"
    return Claim(
        "GPTQ does with less calibration text",
        "ours: how many tokens are enough",
        "Fewer tokens than the largest calibration here give models as good.",
        verdict,
        said,
        [
            "The same settings of the same models on fewer tokens of the same corpus. “Enough” is "
            f"a loss below {NEGLIGIBLE:.0%} of what GPTQ gains over nearest on these models at "
            "this precision, at every precision. The claim holds if some smaller calibration is "
            "enough, does not hold if each is clearly not, and is not resolved otherwise.",
            table(
                ["Corpus", "Tokens", "Precision", *COLUMNS, "GPTQ's gain", "Enough"], rows, text=3
            ),
        ],
    )
