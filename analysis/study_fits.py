"""The embedded study's sections on fits and correlations."""

from collections.abc import Iterator

import pandas as pd
from scipy import stats

from analysis.agreement import metric_correlations
from analysis.fits import parallel_fits, power_law
from analysis.markdown import FAILS, HOLDS, OPEN, PARTLY, Claim, between, table
from analysis.outliers import PAIRS, STD_RATIO, outlier_metrics
from analysis.spread import INTERVAL

_LOSS = "cross_entropy"


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
    pooled = found[found["family"] == "all families"].set_index("metric")["pearson"]
    return Claim(
        "Perplexity stands for zero-shot accuracy",
        "section 4",
        "Perplexity and mean zero-shot accuracy are almost perfectly correlated: Pearson −0.94.",
        HOLDS if (pooled <= -0.9).all() else PARTLY if (pooled <= -0.7).all() else FAILS,
        "; ".join(f"Pearson {v:+.2f} with {m.replace('_', '-')}" for m, v in pooled.items()),
        [
            "Over all experiments; perplexities above 100 count as 100, as the paper plots them. "
            "Intervals by Fisher's z, as if experiments were independent (settings of one model "
            "are not, so they are too narrow). The claim holds at −0.9 or beyond for both losses, "
            "in part at −0.7.",
            table(
                ["Experiments", "Family", "Loss", "Pearson", "90 % interval", "Spearman", "n"],
                rows,
                text=3,
            ),
        ],
    )


def _parallel(linear: pd.DataFrame) -> Claim | None:
    rows, p_values = [], []
    for fit in parallel_fits(linear, _LOSS):
        offsets = ", ".join(
            f"{r.bits:.0f}-bit {r.offset:+.3f} ({between(r.low, r.high, '+.3f')})"
            for r in fit.offsets.sort_values("bits").itertuples()
        )
        p_values.append(fit.p_value)
        rows.append([fit.family, offsets, f"{fit.r_squared:.4f}", f"{fit.r_squared_free:.4f}"])
        rows[-1] += [f"{fit.p_value:.2g}", str(fit.n)]
    if not rows:
        return None
    kept = sum(p >= 0.05 for p in p_values)
    return Claim(
        "Curves of different precisions are parallel",
        "section 4",
        "Scaling curves are one base function of the bits plus an offset per precision.",
        HOLDS if kept == len(rows) else FAILS if not kept else PARTLY,
        f"parallel within the noise in {kept} of {len(rows)} families (p "
        + ", ".join(f"{p:.2g}" for p in p_values)
        + ")",
        [
            "Cross-entropy of the main settings from 3 bit up: a quadratic in log total bits plus "
            "an offset per precision (against 16 bit, at equal size), beside a fit in which every "
            "precision has a slope of its own. F test that the slopes are alike; intervals 90 % by "
            "least squares. The claim holds in a family if p is 0.05 or more.",
            table(["Family", "Offsets (nats)", "R²", "R², free slopes", "p", "n"], rows, text=2),
        ],
    )


def _power_law(linear: pd.DataFrame) -> Claim | None:
    try:
        fit = power_law(linear, _LOSS)
    except ValueError:
        return None
    plain = [f.r_squared for f in parallel_fits(linear, _LOSS)]
    by_bits = fit.residuals.groupby("bits")["residual"]
    rows = []
    for bits, values in by_bits:
        margin = stats.t.ppf((1 + INTERVAL) / 2, len(values) - 1) * values.sem()
        mean = values.mean()
        rows.append([f"{bits}-bit", f"{mean:+.3f}", between(mean - margin, mean + margin, "+.3f")])
        rows[-1].append(str(len(values)))
    terms = [[r.term, f"{r.value:+.3f}", between(r.low, r.high, "+.3f")]
             for r in fit.terms.itertuples()]  # fmt: skip
    best = max(plain, default=0.0)
    return Claim(
        "A bivariate power law fits poorly",
        "section 4",
        "Power laws in parameters and bits describe the data badly; linear interpolation of each "
        "precision is faithful.",
        HOLDS if plain and fit.r_squared < min(plain) else OPEN,
        f"R² {fit.r_squared:.3f}"
        + (f", beside {best:.3f} of a base function and an offset" if plain else ""),
        [
            "log cross-entropy = constant + a log parameters + b log bits, over all families and "
            "the main settings from 3 bit up. A law that fitted would leave a mean residual near "
            f"0 at every precision; the residual standard error is {fit.residual_stderr:.3f}. The "
            "claim holds if R² is below that of a base function plus offsets in every family.",
            table(["Term", "Value", "90 % interval"], terms),
            table(["Precision", "Mean residual (log)", "90 % interval (t)", "n"], rows),
        ],
    )


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
                    margin = stats.t.ppf((1 + INTERVAL) / 2, len(values) - 1) * values.sem()
                    low, high = values.mean() - margin, values.mean() + margin
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
        f"Spearman {attention[0]:+.2f}, {ffn[0]:+.2f}, control {control[0]:+.2f}",
        [
            "Mean over layers of each model of the correlation between a unit's weight standard "
            "deviation and its mean absolute feature on held-out text, and largest over median "
            "standard deviation; then mean and t interval over models. The claim holds if "
            "attention output → FFN1 clearly exceeds 0.5 and the other two.",
            table(
                ["Pair", "Statistic", "Family", "Mean", "90 % interval", "Range", "Models"],
                rows,
                text=3,
            ),
        ],
    )
