"""The report's first lines: which precision wins, how often, and how sure that is."""

import pandas as pd

from analysis.budget import format_bits
from analysis.curves import scaling_curves
from analysis.markup import escape
from analysis.page import dot
from analysis.settings import main_settings, settings_of, with_settings
from analysis.shares import EVERY_FAMILY, win_shares
from analysis.wording import AXIS_NAMES, METRIC_NAMES


def answer_cards(results: pd.DataFrame, metrics: list[str], axis: str) -> list[str]:
    experiments = results.drop_duplicates("experiment_id")
    models, families = experiments["model"].nunique(), experiments["family"].nunique()
    settings = settings_of(experiments)
    return [
        "<h1>Which precision is best for a given number of bits?</h1>",
        f'<p class="muted">{len(experiments):,} experiments: {models} models of {families} '
        f"{'family' if families == 1 else 'families'} at {len(set(settings))} precision settings. "
        f"Size counted: {AXIS_NAMES[axis]}.</p>",
        '<div class="answers">',
        *(_card(results, metric, axis) for metric in metrics),
        "</div>",
        '<p class="small muted">Shares are of the budgets, evenly spaced on a log scale, at which '
        "at least two settings can be compared. “Clear” means that the lead over the "
        "runner-up exceeds two standard errors.</p>",
    ]


def _card(results: pd.DataFrame, metric: str, axis: str) -> str:
    shares = win_shares(results, metric, axis)
    name = f'<p class="muted small">By {METRIC_NAMES[metric]}</p>'
    if shares.empty:
        undetermined = '<p class="big">Undetermined</p><p>No two settings reach one budget.</p>'
        return f'<div class="card">{name}{undetermined}</div>'
    pooled = shares[shares["family"] == EVERY_FAMILY]
    by_bits = by_precision(pooled)
    best, clear = by_bits.index[0], by_bits["significant_share"].sum()
    rest = f"Then {list_shares(by_bits.iloc[1:])}." if len(by_bits) > 1 else "It wins everywhere."
    families = shares.loc[shares["family"] != EVERY_FAMILY, "family"].unique()
    lines = [f"<li>{_family_line(shares[shares['family'] == f])}</li>" for f in families]
    plain = _main_alone(results, metric, axis)
    return (
        f'<div class="card">{name}<p class="big">{dot(best)}{best}-bit wins '
        f"{by_bits['share'].iloc[0]:.0%} of budgets</p><p>{rest} "
        f"A lead is clear at {clear:.0%} of budgets.</p>{plain}<ul>{''.join(lines)}</ul></div>"
    )


def _main_alone(results: pd.DataFrame, metric: str, axis: str) -> str:
    """The answer when only the main setting of each precision competes, if others do at all."""
    settings = [curve.setting for curve in scaling_curves(results, metric, axis)]
    main = main_settings(settings)
    if main == set(settings):
        return ""
    shares = win_shares(with_settings(results, main), metric, axis)
    shares = shares[shares["family"] == EVERY_FAMILY]
    example = next((s for s in main if s.bits < 16), None)
    if shares.empty or example is None:
        return ""
    block = "per tensor" if example.block_size is None else f"blocks of {example.block_size}"
    return (
        f"<p>Among the main settings alone ({example.data_type}, {block}, scope "
        f"{example.scope}): <b>{list_shares(by_precision(shares))}</b>.</p>"
    )


def _family_line(shares: pd.DataFrame) -> str:
    """One family's answer; `shares` are its own, by setting."""
    by_bits, first = by_precision(shares), shares.iloc[0]
    low, high = format_bits(first["low_bits"]), format_bits(first["high_bits"])
    line = (
        f"<b>{escape(first['family'])}</b>, {low} to {high}: {by_bits.index[0]}-bit at "
        f"{by_bits['share'].iloc[0]:.0%}"
    )
    of_best = shares[shares["bits"] == by_bits.index[0]]
    if len(of_best) > 1:
        line += f" (mostly {of_best['setting'].iloc[0]})"
    line += f", clear leads at {by_bits['significant_share'].sum():.0%}"
    complete = by_bits["complete_share"].dropna()
    if len(complete):
        line += f"; where every setting reaches, {complete.idxmax()}-bit at {complete.max():.0%}"
    return line


def by_precision(shares: pd.DataFrame) -> pd.DataFrame:
    columns = ["share", "significant_share", "complete_share"]
    summed = shares.groupby("bits")[columns].sum(min_count=1)
    return summed.sort_values("share", ascending=False)


def list_shares(by_bits: pd.DataFrame) -> str:
    return ", ".join(f"{bits}-bit {share:.0%}" for bits, share in by_bits["share"].items())
