"""The embedded study's sections on fits and correlations."""

from collections.abc import Iterator

import pandas as pd

from analysis.claims.claim import (
    FAILS,
    HOLDS,
    OPEN,
    PARTLY,
    UNKNOWN,
    VOTES,
    Claim,
    between,
    table,
    votes,
)
from analysis.curves.names import listed
from analysis.findings.agreement import metric_correlations
from analysis.findings.fits import LAW_MARGIN, SLOPE_MARGIN, parallel_fits, power_laws
from analysis.findings.outliers import PAIRS, STD_RATIO, outlier_metrics
from analysis.noise.means import margin
from analysis.noise.spread import INTERVAL

_LOSS = "cross_entropy"
_PARALLEL = {"parallel": HOLDS, "not parallel": FAILS, "open": OPEN}
_POOR = {"poor": HOLDS, "as good": FAILS, "open": OPEN}


def fit_claims(linear: pd.DataFrame) -> Iterator[Claim]:
    fitted = linear[linear["bits"] > 2]  # the paper's precisions
    made = (_agreement(linear), _parallel(fitted), _power_law(fitted), _table_2(linear))
    yield from (claim for claim in made if claim is not None)


def _agreement(linear: pd.DataFrame) -> Claim | None:
    found = metric_correlations(linear)
    if found.empty:
        return None
    above_two = metric_correlations(linear[linear["bits"] > 2])
    rows = []
    for name, part in (("all", found), ("without 2-bit", above_two)):
        for r in part.itertuples():
            numbers = [f"{r.pearson:+.3f}", between(r.low, r.high, "+.3f"), f"{r.spearman:+.3f}"]
            rows.append([name, r.family, r.metric.replace("_", "-"), *numbers, f"{r.n:,}"])
    every = found[found["family"] == "all families"].set_index("metric")
    return Claim(
        "Perplexity stands for zero-shot accuracy",
        "section 4",
        "Perplexity and mean zero-shot accuracy are almost perfectly correlated: Pearson −0.94.",
        _agree(every["low"], every["high"]),
        "; ".join(
            f"Pearson {r.pearson:+.2f} ({between(r.low, r.high, '+.2f')}) with "
            f"{r.Index.replace('_', '-')}"
            for r in every.itertuples()
        ),
        [
            "Over all experiments; perplexities above 100 count as 100, as the paper plots them. "
            "Intervals by Fisher's z, as if experiments were independent (settings of one model "
            "are not, so they are too narrow). The claim holds where both losses' intervals lie at "
            "−0.9 or beyond, in part at −0.7; it does not hold where one lies above −0.7.",
            table(
                ["Experiments", "Family", "Loss", "Pearson", "90 % interval", "Spearman", "n"],
                rows,
                text=3,
            ),
        ],
    )


def _agree(low: pd.Series, high: pd.Series) -> str:
    """The verdict by the ends of the correlations' intervals, one correlation a loss."""
    if low.isna().any() or high.isna().any():
        return UNKNOWN
    if (low > -0.7).any():
        return FAILS
    return HOLDS if (high <= -0.9).all() else PARTLY if (high <= -0.7).all() else OPEN


def _parallel(linear: pd.DataFrame) -> Claim | None:
    fits = parallel_fits(linear, _LOSS)
    if not fits:
        return None
    rows, slopes = [], []
    for fit in fits:
        offsets = ", ".join(
            f"{r.bits:g}-bit {r.offset:+.3f} ({between(r.low, r.high, '+.3f')})"
            for r in fit.offsets.sort_values("bits").itertuples()
        )
        rows.append([fit.family, offsets, f"{fit.r_squared:.4f}", f"{fit.r_squared_free:.4f}"])
        rows[-1] += [f"{fit.p_value:.2g}", str(fit.n), _PARALLEL[fit.verdict]]
        slopes += [
            [fit.family, f"{r.bits:g}-bit", f"{r.slope:+.4f}", between(r.low, r.high)]
            + [f"{fit.slope:+.4f}"]
            for r in fit.slopes.sort_values("bits").itertuples()
        ]
    furthest = [
        f"{(fit.slopes['slope'] / fit.slope).abs().max():.0%} of the common slope in {fit.family} "
        f"(p {fit.p_value:.2g})"
        for fit in fits
    ]
    return Claim(
        "Curves of different precisions are parallel",
        "section 4",
        "Scaling curves are one base function of the bits plus an offset per precision.",
        votes([_PARALLEL[fit.verdict] for fit in fits]),
        f"slopes differ by up to {listed(furthest)}",
        [
            "Cross-entropy of the main settings from 3 bit up: a quadratic in log total bits plus "
            "an offset per precision (against 16 bit, at equal size), beside a fit in which every "
            "precision has a slope of its own. Each model has a random effect, since what it does "
            "well or badly is common to its precisions; intervals are 90 % by least squares, p is "
            "of the F test that the slopes are alike. In a family the claim holds if no interval "
            f"of a slope's difference reaches {SLOPE_MARGIN:.0%} of the common slope, does not "
            "hold if one does and p is below 0.05, and is open if one does and p is not: then "
            f"there are too few models to tell. {VOTES}",
            table(["Family", "Offsets (nats)", "R²", "R², free slopes", "p", "n", "Claim"], rows,
                  text=2),
            "Slopes in nats per doubling of the bits: the difference to the largest precision's.",
            table(["Family", "Precision", "Difference", "90 % interval", "Common slope"], slopes,
                  text=2),
        ],
    )  # fmt: skip


def _power_law(linear: pd.DataFrame) -> Claim | None:
    laws = power_laws(linear, _LOSS)
    if not laws:
        return None
    fits, terms, bends = [], [], []
    for law in laws:
        numbers = [f"{law.stderr:.4f}", f"{law.stderr_offsets:.4f}"]
        numbers += [f"{law.r_squared:.3f}", f"{law.r_squared_offsets:.3f}"]
        fits.append([law.family, *numbers, str(len(law.residuals)), _POOR[law.verdict]])
        terms += [[law.family, r.term, f"{r.value:+.3f}", between(r.low, r.high, "+.3f")]
                  for r in law.terms.itertuples()]  # fmt: skip
        for bits, values in law.residuals.groupby("bits")["residual"]:
            reach = float(margin(values.sem(), len(values) - 1, INTERVAL))
            mean = values.mean()
            bends.append([law.family, f"{bits:g}-bit", f"{mean:+.3f}"])
            bends[-1] += [between(mean - reach, mean + reach, "+.3f"), str(len(values))]
    ratios = [f"{law.stderr / law.stderr_offsets:.1f} times in {law.family}" for law in laws]
    return Claim(
        "A bivariate power law fits poorly",
        "section 4",
        "Power laws in parameters and bits describe the data badly; linear interpolation of each "
        "precision is faithful.",
        votes([_POOR[law.verdict] for law in laws]),
        f"its residual standard error is {listed(ratios)} that of a base function and offsets",
        [
            "Per family, log cross-entropy = constant + a log parameters + b log bits, over the "
            "main settings from 3 bit up, beside a quadratic in log total bits plus an offset per "
            "precision of the same values. Residual standard errors are of the logarithm, where in "
            "both each model has the same random effect, lest its luck hide how well either fits; "
            "R² is without, adjusted for the number of terms. In a family the claim holds if the "
            "law's "
            f"error is {LAW_MARGIN:g} times the other's or more, does not hold if it is no larger, "
            f"and is open between. {VOTES}",
            table(["Family", "Error, power law", "Error, offsets", "R², power law", "R², offsets",
                   "n", "Claim"], fits),
            table(["Family", "Term", "Value", "90 % interval"], terms, text=2),
            "A law that fitted would leave a mean residual near 0 at every precision.",
            table(["Family", "Precision", "Mean residual (log)", "90 % interval (t)", "n"], bends,
                  text=2),
        ],
    )  # fmt: skip


def _table_2(linear: pd.DataFrame) -> Claim | None:
    stored = outlier_metrics(linear)
    if stored["model"].nunique() < 2:  # an interval over models needs two
        return None
    rows, means = [], {}
    for pair in PAIRS.values():
        for statistic in ("spearman", "pearson", STD_RATIO):
            part = stored[(stored["pair"] == pair) & (stored["statistic"] == statistic)]
            groups = [(str(f), g["value"]) for f, g in part.groupby("family", sort=False)]
            for family, values in [*groups, ("all families", part["value"])]:
                if len(values) > 1:
                    reach = float(margin(values.sem(), len(values) - 1, INTERVAL))
                    low, high = values.mean() - reach, values.mean() + reach
                    means[family, pair, statistic] = (float(values.mean()), low, high)
                    rows.append([pair, statistic.replace("_", " "), family])
                    rows[-1] += [f"{values.mean():+.2f}", between(low, high, "+.2f")]
                    rows[-1] += [f"{values.min():+.2f} to {values.max():+.2f}", str(len(values))]
    attention, ffn, control = (means["all families", p, "spearman"] for p in PAIRS.values())
    order = ffn[1] > max(attention[0], control[0])
    return Claim(
        "Weight deviation tells where large features are",
        "section 3, appendix D, table 2",
        "The deviation of a unit's weights ranks its features: Spearman 0.12 to 0.41 for QKV and "
        "attention output, 0.55 to 0.78 for attention output and FFN1, near 0 for the control; "
        "outlier dimensions have up to 20 times the usual deviation.",
        HOLDS if order and ffn[1] > 0.5 else PARTLY if ffn[1] > 0 or attention[1] > 0 else FAILS,
        "Spearman "
        + ", ".join(
            f"{name}{mean:+.2f} ({between(low, high, '+.2f')})"
            for name, (mean, low, high) in (("", attention), ("", ffn), ("control ", control))
        ),
        [
            "Mean over layers of each model of the correlation between a unit's weight standard "
            "deviation and its mean absolute feature on held-out text, and largest over median "
            "standard deviation; then mean and t interval over models. Of the Spearman "
            "correlations over all families, the claim holds if attention output → FFN1 clearly "
            "exceeds 0.5 (the interval's lower end) and both others' lower ends, in part if it or "
            "QKV → attention output is clearly positive, and does not hold otherwise. GPT-NeoX "
            "computes attention and FFN in parallel: there FFN1 reads the block's input, not the "
            "attention output's, and the pair is of the order in which they are listed.",
            table(
                ["Pair", "Statistic", "Family", "Mean", "90 % interval", "Range", "Models"],
                rows,
                text=3,
            ),
        ],
    )
