"""Answers and findings as sentences."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from analysis.answers.answer import Candidate, Optimum
from analysis.answers.universal import LEAST_COMPARED, Universality
from analysis.curves.budget import format_bits
from analysis.curves.metrics import chance_level
from analysis.curves.names import UNITS, format_value, name_metric
from analysis.curves.points import curve_points
from analysis.findings.finding import Finding

# What simulations with a known truth show (tests/analysis/noise/test_selection.py).
SELECTED = (
    "The interval of a winner’s value allows for its having been picked as the best of noisy "
    "values: in simulations 90% intervals held the truth in 86 to 93% of cases (from 3 to 20 "
    "settings; 44 to 92% without the correction)."
)
CALIBRATED = (
    "it is shrunk where settings differ by less than their noise, and errs on the low side where "
    "they differ by more: in simulations winners stated at 46 to 81% were the best in 55 to 90% "
    "of cases. Among settings that do not differ at all there is no best, and what is stated (35% "
    "for the first of five) is too high (21%)."
)

LEADS = (
    "Winner and rival are both picked for looking best: in simulations 0 to 5% of budgets had a "
    "clear lead where there truly was none (14% where ten settings of one precision met a single "
    "one of another), and clear leads were stated 0.2 to 2.4 standard errors too large."
)


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
    sure = "clear" if answer.significant else "not clear: its 95% interval holds 0"
    if np.isnan(answer.lead_stderr):
        sure = "how clear cannot be said: errors unknown"
    elif not answer.paired:
        sure += "; errors as if independent"
    name = name_metric(answer.metric, [answer.task])
    return (
        f"{where}: {answer.setting.label}, {models}: {name} {value}. "
        f"Lead over {answer.runner_up.label}: {lead} ({sure}).{fit}"
    )


def certainty_sentence(answer: Optimum) -> str:
    """How sure an answer is, in words; "" where it is not known.

    The interval of the value is said of the setting, as it would be had it not been picked: picked
    as the best, it owes part of its value to luck (see SELECTED).
    """
    if answer.certainty is None:
        return ""
    items, models = answer.certainty.items, answer.certainty.models
    value, lead = (
        " to ".join(format_value(answer.metric, end, unit=False) for end in interval)
        for interval in (items.value, items.lead)
    )
    unit = f" {UNITS[answer.metric]}" if UNITS[answer.metric] else ""
    rest = f"; undetermined in {models.undetermined:.0%}" if models.undetermined else ""
    return (
        f"Probability of being optimal: {list_probabilities(items.probability)}. "
        f"90% intervals: of this setting’s value {value}{unit}, of its lead {lead}{unit}. "
        f"With other sizes of the family: {list_probabilities(models.probability)}{rest}."
    )


def list_probabilities(probability: Mapping[float, float]) -> str:
    """ "4-bit 83%, 5-bit 17%"; what rounds to nothing is left out."""
    shown = [f"{bits:g}-bit {p:.0%}" for bits, p in probability.items() if p >= 0.005]
    return ", ".join(shown) or "undetermined"


def verdict_sentence(answer: Universality, name: str) -> str:
    """Whether one precision is almost universally optimal, by the metric called `name`."""
    verdict = {
        "holds": "holds here",
        "fails": "does not hold here",
        "open": "is neither confirmed nor refuted here",
        "narrow": "cannot be judged from so small a part of the sizes",
        "unknown": "cannot be judged here",
    }[answer.verdict]
    known = answer.verdict != "unknown"
    low, high = f"{answer.low:.0%}", f"{answer.high:.0%}"
    # Budgets are counted: resampled items may leave all as it is, which is no interval of width 0.
    interval = f"90% interval {low} to {high}" if low != high else "so do 90% of resamplings"
    interval = f" ({interval})" if known else ""
    tied = f", and wins or cannot be told from the winner at {answer.tied_share:.0%}"
    return (
        f"“{answer.bits:g}-bit is almost universally optimal” {verdict} by {name}: "
        f"it wins {answer.share:.0%} of the budgets that it and another precision reach"
        f"{interval}, leads in {answer.families_led} of {answer.n_families} families"
        f"{tied if known else ''}. {'' if known else 'Errors are unknown, so nothing is sure. '}"
        f"These are {answer.coverage:.0%} of the budgets that any two precisions reach, "
        f"{size_range(answer.low_bits, answer.high_bits)}, and {answer.compared:.0%} of the (log) "
        "range of all sizes measured."
    )


def loadable(fit: Candidate, metric: str) -> str:
    """An experiment as a person would pick it: model, setting, size, value."""
    value = format_value(metric, fit.value, fit.stderr)
    return f"{fit.model} at {fit.setting.label}, {format_bits(fit.size_bits)}, {value}"


def headline(finding: Finding) -> str:
    """What a finding says, in one line."""
    name = name_metric(finding.metric, finding.tasks)
    if finding.shares.empty:
        return f"Bit-optimal precision by {name}: undetermined, {why_undecided(finding)}"
    best = finding.by_precision
    return (
        f"{best.index[0]:g}-bit is bit-optimal by {name} at {best['share'].iloc[0]:.0%} of "
        f"budgets ({range_part(finding)}); {clear_part(finding)}"
    )


def range_part(finding: Finding) -> str:
    """The budgets that a finding speaks of, whether they are but a small part, and which of them it
    leaves out: "1 MiB to 4 MiB; at 12% more of them no setting is clear of chance, 25.0 %"."""
    shares = finding.shares
    told = size_range(shares["low_bits"].min(), shares["high_bits"].max())
    if finding.compared < LEAST_COMPARED:
        told += f", only {finding.compared:.0%} of the range of all sizes"
    if finding.at_chance:
        chance = np.nanmean([chance_level(task) for task in finding.tasks])
        level = "" if np.isnan(chance) else f", {format_value('zero_shot', float(chance))}"
        each = ", ".join(f"{share:.0%} in {family}" for family, share in finding.at_chance.items())
        told += f"; left out where no setting is clear of chance{level}: {each}"
    return told


def size_range(low_bits: float, high_bits: float) -> str:
    """ "1.2 MiB to 4 MiB"."""
    return f"{format_bits(low_bits)} to {format_bits(high_bits)}"


def clear_part(finding: Finding) -> str:
    """At how many budgets the lead is clear, and by which errors."""
    if finding.unknown == 1:
        return "how clear a lead is cannot be said: errors unknown"
    share = finding.by_precision["clear_share"].sum()
    clear = f"a lead is clear at {share:.0%} of all budgets, each judged by itself"
    if finding.unknown > 0:
        return f"{clear} (errors are unknown at {finding.unknown:.0%})"
    if finding.paired == 0:
        return f"{clear} (errors as if independent: no item scores)"
    return clear if finding.paired == 1 else f"{clear} (errors paired at {finding.paired:.0%})"


def scored_on(results: pd.DataFrame, metric: str, task: str | None = None) -> str:
    """What a metric was taken on: "on sotu (500 items)"; families on different tasks apart."""
    points = curve_points(results, metric, task)
    unit = "items" if metric == "zero_shot" else "windows"
    told = []
    for name, part in points.groupby("task", sort=False):
        low, high = part["n_items"].min(), part["n_items"].max()
        n = "n unknown" if not low > 0 else f"{low:,}" if low == high else f"{low:,} to {high:,}"
        told.append(f"on {name} ({n} {unit})")
    return ", ".join(told)


def list_shares(by_bits: pd.DataFrame) -> str:
    """ "4-bit 52%, 5-bit 34%", of a frame of shares by precision."""
    return ", ".join(f"{bits:g}-bit {share:.0%}" for bits, share in by_bits["share"].items())


def why_undecided(finding: Finding) -> str:
    """Why no family has a winner: one reason if all share it."""
    reasons = set(finding.undecided.values())
    if len(reasons) == 1:
        return reasons.pop()
    each = [f"{family}: {why}" for family, why in finding.undecided.items()]
    return "; ".join(each) or "nothing was scored"
