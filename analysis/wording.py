"""Answers as sentences: the names, units and roundings that people read."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from analysis.answer import Candidate, Optimum
from analysis.budget import format_bits
from analysis.shares import EVERY_FAMILY
from analysis.universal import Universality

METRIC_NAMES = {
    "zero_shot": "mean zero-shot accuracy",
    "cross_entropy": "cross-entropy",
    "perplexity": "perplexity",
}
AXIS_NAMES = {
    "total": "total bits of the model (all parameters; what is not quantized counts 16 bits)",
    "quantized": "bits of the quantized matrices alone",
    "nominal": "nominal bits (parameters × bits per parameter)",
}


_UNITS = {"zero_shot": "%", "cross_entropy": "nats", "perplexity": ""}
_SCALE_DIGITS = {"zero_shot": (100.0, 2), "cross_entropy": (1.0, 4), "perplexity": (1.0, 3)}


def format_value(metric: str, value: float, stderr: float | None = None, unit: bool = True) -> str:
    """A value, "± one standard error" where there is one, and the metric's unit if asked."""
    if not np.isfinite(value):
        return "diverged"
    scale, digits = _SCALE_DIGITS[metric]
    error = "" if stderr is None or np.isnan(stderr) else f" ± {scale * stderr:.{digits}f}"
    return f"{scale * value:.{digits}f}{error} {_UNITS[metric] if unit else ''}".rstrip()


def in_unit(metric: str, name: str) -> str:
    """A column's heading with the unit its cells leave out: "Lead (nats)"."""
    return f"{name} ({_UNITS[metric]})" if _UNITS[metric] else name


def answer_sentence(answer: Optimum) -> str:
    """One answer in words, for a terminal or a page."""
    where = f"{answer.family}, {format_bits(answer.budget_bits)}"
    fit = f" Best that fits: {loadable(answer.best_fit, answer.metric)}." if answer.best_fit else ""
    if answer.setting is None or answer.runner_up is None or answer.at_or_below is None:
        return f"{where}: undetermined, {answer.reason}.{fit}"
    models = answer.at_or_below.model
    if answer.above is not None:
        models = f"between {models} and {answer.above.model}"
    value = format_value(answer.metric, answer.value, answer.stderr)
    lead = format_value(answer.metric, answer.lead, answer.lead_stderr)
    sure = "clear" if answer.significant else "not clear: within two standard errors"
    return (
        f"{where}: {answer.setting.label}, {models}: {METRIC_NAMES[answer.metric]} {value}. "
        f"Lead over {answer.runner_up.label}: {lead} ({sure}).{fit}"
    )


def certainty_sentence(answer: Optimum) -> str:
    """How sure an answer is, in words; "" where it is not known."""
    if answer.certainty is None:
        return ""
    items, models = answer.certainty.items, answer.certainty.models
    value, lead = (
        " to ".join(format_value(answer.metric, end, unit=False) for end in interval)
        for interval in (items.value, items.lead)
    )
    unit = f" {_UNITS[answer.metric]}" if _UNITS[answer.metric] else ""
    rest = f"; undetermined in {models.undetermined:.0%}" if models.undetermined else ""
    return (
        f"Probability of being optimal: {list_probabilities(items.probability)}. "
        f"90% intervals: value {value}{unit}, lead {lead}{unit}. "
        f"With other sizes of the family: {list_probabilities(models.probability)}{rest}."
    )


def list_probabilities(probability: Mapping[int, float]) -> str:
    """ "4-bit 83%, 5-bit 17%"; what rounds to nothing is left out."""
    shown = [f"{bits}-bit {p:.0%}" for bits, p in probability.items() if p >= 0.005]
    return ", ".join(shown) or "undetermined"


def verdict_sentence(answer: Universality, metric: str) -> str:
    """Whether one precision is almost universally optimal in these results."""
    verdict = {
        "holds": "holds here",
        "fails": "does not hold here",
        "open": "is neither confirmed nor refuted here",
    }[answer.verdict]
    return (
        f"“{answer.bits}-bit is almost universally optimal” {verdict} by {METRIC_NAMES[metric]}: "
        f"it wins {answer.share:.0%} of the budgets that it and another precision reach (90% "
        f"interval {answer.low:.0%} to {answer.high:.0%}), leads in {answer.families_led} of "
        f"{answer.n_families} families, and wins or cannot be told from the winner at "
        f"{answer.tied_share:.0%}. These are {answer.coverage:.0%} of the budgets that any two "
        "precisions reach."
    )


def loadable(fit: Candidate, metric: str) -> str:
    """An experiment as a person would pick it: model, setting, size, value."""
    value = format_value(metric, fit.value, fit.stderr)
    return f"{fit.model} at {fit.setting.label}, {format_bits(fit.size_bits)}, {value}"


def finding(shares: pd.DataFrame, metric: str, family: str = EVERY_FAMILY) -> str:
    """What win_shares says of `family`, by precision, as a headline."""
    name = METRIC_NAMES[metric]
    shares = shares[shares["family"] == family]
    if shares.empty:
        return f"No bit-optimal precision by {name}: no two curves overlap"
    by_bits = shares.groupby("bits")["share"].sum().sort_values(ascending=False)
    clear = shares["significant_share"].sum()
    return (
        f"{by_bits.index[0]}-bit is bit-optimal by {name} at {by_bits.iloc[0]:.0%} of budgets; "
        f"the lead is clear at {clear:.0%}"
    )
