"""The embedded study's sections on which precision is best, and where precision fails."""

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import product

import pandas as pd

from analysis.answers.shares import EVERY_FAMILY
from analysis.answers.universal import (
    ALMOST,
    LEAST_COMPARED,
    Universality,
    certain_shares,
)
from analysis.claims.claim import (
    FAILS,
    HOLDS,
    OPEN,
    PARTLY,
    UNKNOWN,
    VOTES,
    Claim,
    between,
    judged,
    sign,
    table,
    votes,
)
from analysis.curves.names import METRIC_NAMES, listed, name_blocks
from analysis.curves.remembering import once
from analysis.curves.scaling import AXES, scaling_curves
from analysis.curves.settings import is_baseline, main_settings, with_settings
from analysis.findings.families import collapses, precision_duel
from analysis.noise.bootstrap import ItemScores

METRICS = ("zero_shot", "cross_entropy")
_VERDICTS = {"holds": HOLDS, "fails": FAILS, "open": OPEN, "narrow": OPEN, "unknown": UNKNOWN}


def linear_only(results: pd.DataFrame) -> pd.DataFrame:
    """The paper's scope: attention and FFN projections; embeddings stay in 16 bit."""
    return once(_linear_only, results)


def _linear_only(results: pd.DataFrame) -> pd.DataFrame:
    return results[results["scope"] == "linear"]


def main_only(results: pd.DataFrame) -> pd.DataFrame:
    """The main setting of every precision alone (the most common data type and block size)."""
    return once(_main_only, results)


def _main_only(results: pd.DataFrame) -> pd.DataFrame:
    curves = scaling_curves(results, "cross_entropy") or scaling_curves(results, "zero_shot")
    return with_settings(results, main_settings([curve.setting for curve in curves]))


def optimum_claims(
    results: pd.DataFrame, scores: ItemScores, axes: Sequence[str] = tuple(AXES)
) -> Iterator[Claim]:
    linear = linear_only(results)
    main = main_only(linear)
    fields = {"main": main} if len(main) == len(linear) else {"main": main, "any": linear}
    rows: list[list[str]] = []
    answers: list[tuple[str, Universality]] = []
    for name, axis, metric in product(fields, axes, METRICS):
        shares, answer = certain_shares(fields[name], metric, axis, scores=scores)
        if answer is not None:
            pooled = shares[shares["family"] == EVERY_FAMILY].set_index("bits")
            rows.append(_share_row(name, axis, metric, pooled, answer))
            answers.append((axis, answer))
    if answers:
        yield _universal(rows, answers, main)
    if claim := _duel(main, scores):
        yield claim
    if claim := _collapse(linear):
        yield claim


def _share_row(
    name: str, axis: str, metric: str, pooled: pd.DataFrame, answer: Universality
) -> list[str]:
    best = int(pooled["share"].idxmax())
    return [
        name,
        axis,
        METRIC_NAMES[metric],
        f"{best:g}-bit, {pooled.loc[best, 'share']:.0%}",
        f"{answer.coverage:.0%}",
        f"{answer.share:.0%}",
        between(answer.low, answer.high, ".0%"),
        between(answer.low_models, answer.high_models, ".0%"),
        f"{answer.undetermined:.0%}",
        f"{answer.tied_share:.0%}" if answer.tied_share == answer.tied_share else "",
        f"{answer.families_led} of {answer.n_families}",
        _VERDICTS[answer.verdict],
    ]


def _range(shares: Sequence[float]) -> str:
    """ "16% to 60%", over comparisons; "16%" where they say the same."""
    return " to ".join(dict.fromkeys(f"{share:.0%}" for share in (min(shares), max(shares))))


def _universal(
    rows: list[list[str]], answers: list[tuple[str, Universality]], main: pd.DataFrame
) -> Claim:
    example = main[~is_baseline(main)].iloc[0]
    block = name_blocks(example["block_size"], bool(example["by_row"]))
    columns = ["Settings", "Size counted", "By", "Most frequent winner", "Judged at"]
    columns += ["4-bit wins", "90 % interval, items", "items and models", "Undetermined"]
    columns += ["Wins or tied", "Families led", "Claim"]
    by_axis = [
        f"{_range(shares)} counting {axis} bits"
        for axis in AXES
        if (shares := [a.share for counted, a in answers if counted == axis])
    ]
    winners = Counter(row[3].split(",")[0] for row in rows).most_common()
    often = ", ".join(f"{bits} in {count}" for bits, count in winners)
    return Claim(
        "4-bit is almost universally optimal",
        "abstract, section 5.1, figures 1, 2, 7 and 13",
        "For a given number of bits, 4-bit precision gives the best model almost everywhere.",
        votes([_VERDICTS[a.verdict] for _, a in answers]),
        f"of the budgets that 4-bit and another precision reach it wins {listed(by_axis)}; most "
        f"frequent winner: {often} of {len(rows)} comparisons",
        [
            "“Most frequent winner”: of the budgets (log-spaced) that two or more precisions "
            "reach. 4-bit is judged at those of them that it reaches, whose share is “judged at”: "
            "below its smallest model and above its largest it cannot win. Every budget counts "
            "alike, so a family counts by the range over which its precisions meet. "
            f"“main”: {example['data_type']} in {block} at every "
            "precision; “any”: each precision with whichever data type, block size, exponent "
            "split, outlier share and centering serves it best at that budget. “Wins or tied”: "
            "4-bit wins, or the winner's lead over it could be luck (90 % interval over items). "
            "Intervals of shares are widened to hold the share itself: near ties, resampling "
            "spreads the wins over more settings than the data do. “Undetermined”: replicates over "
            "models in which 4-bit met no other precision; the interval is of the others. A "
            f"comparison holds if even the interval's lower end over items is at {ALMOST:.0%} or "
            "above, does not hold if even the tied share is below, and is open otherwise, and "
            f"where less than {LEAST_COMPARED:.0%} of the range of sizes could be compared. "
            f"{VOTES}",
            table(columns, rows, text=4),
        ],
        ["figure-02-total-bits", "figure-13-total-bits-loss"],
    )


def _duel(main: pd.DataFrame, scores: ItemScores) -> Claim | None:
    rows, signs, lows = [], [], []
    for metric in METRICS:
        for axis in ("total", "nominal"):
            for r in precision_duel(main, 5, 4, metric, axis, scores).itertuples():
                unit = 100 if metric == "zero_shot" else 1
                low, high = unit * r.low, unit * r.high
                spec = "+.2f" if metric == "zero_shot" else "+.4f"
                rows.append([r.family, METRIC_NAMES[metric], axis])
                rows[-1] += [f"{unit * r.lead:{spec}}", between(low, high, spec), f"{r.share:.0%}"]
                signs.append(sign(r.low, r.high))
                lows.append(float(r.low))
    if not rows:
        return None
    ahead, behind = signs.count(1), signs.count(-1)
    return Claim(
        "5-bit is at least as good as 4-bit",
        "appendix C.1",
        "Over all families 4-bit is best, but for some (Pythia) 5-bit is as good at equal bits.",
        judged(HOLDS if not behind else FAILS if behind == len(signs) else PARTLY, lows),
        f"of {len(signs)} comparisons at equal size 5-bit is clearly ahead in {ahead}, clearly "
        f"behind in {behind}, and cannot be told from 4-bit in {len(signs) - ahead - behind}",
        [
            "Lead of 5-bit over 4-bit at equal size, the mean over budgets that both curves reach "
            "(% of accuracy, nats of cross-entropy; positive: 5-bit is better), main settings. "
            "“At least as good” holds if 5-bit is nowhere clearly behind, be it level or ahead, "
            "does not hold if it is clearly behind everywhere, and holds in part otherwise.",
            table(
                ["Family", "By", "Size counted", "Lead", "90 % interval", "Ahead at"], rows, text=3
            ),
        ],
    )


def _collapse(linear: pd.DataFrame) -> Claim | None:
    precisions = [bits for bits in (2, 3, 4) if (linear["bits"] == bits).any()]
    tables = {bits: collapses(linear, bits) for bits in precisions}
    tables = {bits: found for bits, found in tables.items() if len(found)}
    if 3 not in tables:
        return None
    sizes = pd.concat(tables.values())[["family", "model", "n_params"]].drop_duplicates()
    rows = []
    for model in sizes.sort_values(["family", "n_params"]).itertuples():
        cells = []
        for found in tables.values():
            own = found[found["model"] == model.model]
            cells.append(f"{int(own['collapsed'].sum())} of {len(own)}")
        rows.append([model.family, model.model, f"{model.n_params:,}", *cells])
    share = {bits: float(found["collapsed"].mean()) for bits, found in tables.items()}
    three = tables[3]
    clear = three.groupby("family")["collapsed"].mean()
    return Claim(
        "Below 4 bit some families collapse",
        "section 5.1, figure 2",
        "At 3 bit OPT and Pythia fall to chance at the largest sizes; other families do not.",
        HOLDS if (clear > 0.5).any() else FAILS if share[3] < 0.05 else OPEN,
        "at chance: "
        + ", ".join(f"{value:.0%} of {bits:g}-bit experiments" for bits, value in share.items()),
        [
            "Experiments whose mean zero-shot accuracy has guessing in its 95 % interval, "
            "over all data types, block sizes, exponent splits and outlier shares. The claim holds "
            "if at 3 bit most of a family's experiments are there, and does not if fewer than 5 % "
            "of all are.",
            table(
                ["Family", "Model", "Parameters", *(f"{b:g}-bit at chance" for b in tables)],
                rows,
                text=2,
            ),
        ],
    )
