"""The report's tests of the paper's claims on these results."""

from collections.abc import Callable

import pandas as pd

from analysis.agreement import metric_correlations
from analysis.bootstrap import ItemScores
from analysis.effects import factor_effects
from analysis.families import collapses, compare_families, precision_duel
from analysis.fits import parallel_fits, power_laws
from analysis.markdown import between
from analysis.markup import escape
from analysis.page import dot, table
from analysis.universal import certain_shares
from analysis.wording import METRIC_NAMES, verdict_sentence

_FACTORS = {
    "block_size": "Block size",
    "data_type": "Data type",
    "exponent_bits": "Exponent bits",
    "centered": "Centering",
    "outlier_fraction": "Proxy outliers",
}
_MOST_EFFECTS = 400  # rows; a study with more has them in `kbit results`


def claim_sections(
    results: pd.DataFrame, metrics: list[str], axis: str, scores: ItemScores
) -> list[str]:
    """HTML: one section a claim; what these results cannot test is left out."""
    metric = "cross_entropy" if "cross_entropy" in metrics else metrics[0]
    sections: list[Callable[[], list[str]]] = [
        lambda: _universal(results, metrics, axis, scores),
        lambda: _parallel(results, metric, axis),
        lambda: _power_law(results, metric),
        lambda: _agreement(results, metrics),
        lambda: _effects(results, metric, scores),
        lambda: _duel(results, metric, axis, scores),
        lambda: _tuned(results, metric),
        lambda: _collapse(results, metrics[0]),
    ]
    parts = [part for section in sections for part in section()]
    return ["<h2>The paper's claims on these results</h2>", *parts] if parts else []


def _universal(
    results: pd.DataFrame, metrics: list[str], axis: str, scores: ItemScores
) -> list[str]:
    parts = []
    for metric in metrics:
        shares, claim = certain_shares(results, metric, axis, scores=scores)
        if shares.empty:
            continue
        rows = [
            [
                escape(row.family),
                f"{dot(row.bits)}{row.bits:g}-bit",
                f"{row.share:.0%}",
                _ends(row.low, row.high, ".0%"),
                _ends(row.low_models, row.high_models, ".0%")
                if row.undetermined < 1
                else "undetermined",
                f"{row.undetermined:.0%}",
            ]
            for row in shares.itertuples()
        ]
        columns = ["Family", "Precision", "Budgets won", "Over items", "Over items and models"]
        columns += ["Undetermined"]
        if claim is not None:
            parts.append(f"<p>{escape(verdict_sentence(claim, METRIC_NAMES[metric]))}</p>")
        parts.append(
            f"<details><summary>Budgets won by {METRIC_NAMES[metric]}, with 90% intervals</summary>"
            "<p>Of the budgets that two or more precisions reach; over all families every budget "
            "counts alike. “Undetermined”: replicates over models in which no two meet.</p>"
            f"{table(columns, rows, numbers=columns[2:])}</details>"
        )
    return ["<h3>One precision for all (section 5.1)</h3>", *parts] if parts else []


def _parallel(results: pd.DataFrame, metric: str, axis: str) -> list[str]:
    fits = parallel_fits(results, metric, axis)
    if not fits:
        return []
    rows = [
        [
            escape(fit.family),
            f"{dot(row.bits)}{row.bits:g}-bit",
            f"{row.offset:+.4f}",
            _ends(row.low, row.high, "+.4f"),
        ]
        for fit in fits
        for row in fit.offsets.itertuples()
    ]
    verdicts = "; ".join(
        f"{escape(fit.family)}: R² {fit.r_squared:.3f}, with free slopes "
        f"{fit.r_squared_free:.3f}; slopes differ by up to "
        f"{(fit.slopes['slope'] / fit.slope).abs().max():.0%} of the common one, F test p = "
        f"{fit.p_value:.2g} "
        f"({fit.verdict})"
        for fit in fits
    )
    columns = ["Family", "Precision", "Offset", "90% interval"]
    return [
        "<h3>Parallel curves: a base function and an offset (section 4)</h3>",
        f"<p>{METRIC_NAMES[metric].capitalize()} at equal size, against the largest precision. "
        f"{verdicts}.</p>",
        table(columns, rows, numbers=columns[2:]),
    ]


def _power_law(results: pd.DataFrame, metric: str) -> list[str]:
    lines = []
    for law in power_laws(results, metric):
        terms = ", ".join(
            f"{row.term} {row.value:.3f} ({_ends(row.low, row.high, '.3f')})"
            for row in law.terms.itertuples()
        )
        by_bits = law.residuals.groupby("bits")["residual"].mean()
        bends = ", ".join(f"{bits:g}-bit {value:+.3f}" for bits, value in by_bits.items())
        lines.append(
            f"<li>{escape(law.family)}: adjusted R² {law.r_squared:.3f}, residual standard error "
            f"{law.stderr:.4f} in log; {law.stderr_offsets:.4f} for a base function and "
            f"offsets. {terms}. Mean residual by precision: {bends}.</li>"
        )
    head = [
        "<h3>A power law in parameters and bits (section 4)</h3>",
        "<p>A law that fitted would leave a mean residual near 0 at every precision.</p><ul>",
    ]
    return [*head, *lines, "</ul>"] if lines else []


def _agreement(results: pd.DataFrame, metrics: list[str]) -> list[str]:
    if "zero_shot" not in metrics:
        return []
    rows = [
        [
            escape(row.family),
            row.metric.replace("_", "-"),
            f"{row.pearson:.3f}",
            _ends(row.low, row.high, ".3f"),
            f"{row.spearman:.3f}",
            str(row.n),
        ]
        for row in metric_correlations(results).itertuples()
    ]
    columns = ["Family", "Against accuracy", "Pearson", "90% interval", "Spearman", "Experiments"]
    if not rows:
        return []
    return [
        "<h3>Does loss stand for accuracy? (section 4)</h3>",
        "<p>The paper: Pearson −0.94 between perplexity and mean zero-shot accuracy. Perplexities "
        "above 100 count as 100.</p>",
        table(columns, rows, numbers=columns[2:]),
    ]


def _effects(results: pd.DataFrame, metric: str, scores: ItemScores) -> list[str]:
    effects = factor_effects(results, metric, scores)
    if effects.empty:
        return []
    rows = []
    for row in effects.head(_MOST_EFFECTS).itertuples():
        known = row.equivalent_bits == row.equivalent_bits
        worth = f"{row.equivalent_bits:+.2f}" if known else "?"
        worth_between = _ends(row.equivalent_low, row.equivalent_high, "+.2f") if known else ""
        rows.append(
            [
                escape(row.family),
                f"{dot(row.bits)}{row.bits:g}-bit",
                _FACTORS[row.factor],
                f"{escape(row.level)} for {escape(row.reference)}",
                f"{row.gain:+.4f}",
                _ends(row.gain_low, row.gain_high, "+.4f"),
                worth,
                worth_between,
                f"{row.cost:+.2f}",
            ]
        )
    columns = ["Family", "Precision", "Factor", "Change", "Gain", "90% interval"]
    columns += ["Equivalent bits", "Their interval", "Bits it costs"]
    return [
        "<h3>What a factor is worth (section 5.2, appendices B and C)</h3>",
        f"<p>Gain in {METRIC_NAMES[metric]} over the same models (positive is better), as a "
        "multiple of what one more bit gains there; “?” where a bit's own gain is not clear.</p>",
        f"<details><summary>{len(effects)} effects</summary>"
        f"{table(columns, rows, numbers=columns[4:])}</details>",
    ]


def _duel(results: pd.DataFrame, metric: str, axis: str, scores: ItemScores) -> list[str]:
    lines = [
        f"<li>{escape(row.family)}: 5 bit leads by {row.lead:+.4f} on average "
        f"({_ends(row.low, row.high, '+.4f')}), at {row.share:.0%} of budgets.</li>"
        for row in precision_duel(results, 5, 4, metric, axis, scores).itertuples()
    ]
    return ["<h3>5 bit against 4 (appendix C.1)</h3><ul>", *lines, "</ul>"] if lines else []


def _tuned(results: pd.DataFrame, metric: str) -> list[str]:
    lines = [
        f"<li>{row.bits:g}-bit: BLOOM loses {row.first_loss:.4f}, BLOOMZ {row.second_loss:.4f}; "
        f"difference {row.difference:+.4f} ({_ends(row.low, row.high, '+.4f')}, "
        f"{row.n_models} sizes).</li>"
        for row in compare_families(results, metric=metric).itertuples()
    ]
    head = "<h3>BLOOM and BLOOMZ (appendix C.1)</h3><ul>"
    return [head, *lines, "</ul>"] if lines else []


def _collapse(results: pd.DataFrame, metric: str) -> list[str]:
    found = collapses(results, 3, metric)
    if found.empty:
        return []
    fallen = found[found["collapsed"]]
    names = "; ".join(f"{escape(r.model)} at {escape(r.setting)}" for r in fallen.itertuples())
    return [
        "<h3>3-bit collapse (section 5.1)</h3>",
        f"<p>{len(fallen)} of {len(found)} 3-bit experiments are at chance by "
        f"{METRIC_NAMES[metric]}{': ' + names if 0 < len(fallen) <= 20 else ''}.</p>",
    ]


def _ends(low: float, high: float, spec: str) -> str:
    return between(low, high, spec) or "errors unknown"
