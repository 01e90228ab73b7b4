"""The report's first lines: which precision wins, how often, and how sure that is."""

import pandas as pd

from analysis.answers.shares import EVERY_FAMILY
from analysis.curves.budget import format_bits
from analysis.curves.names import AXIS_NAMES, name_blocks, name_metric
from analysis.curves.scaling import scaling_curves
from analysis.curves.settings import main_settings, settings_of, with_settings
from analysis.documents.markup import escape
from analysis.documents.page import dot
from analysis.findings.finding import Finding, by_precision, find
from analysis.findings.wording import LEADS, clear_part, list_shares, range_part, why_undecided
from analysis.noise.bootstrap import ItemScores, no_item_scores


def answer_cards(
    results: pd.DataFrame,
    metrics: list[str],
    axis: str,
    task: str | None = None,
    scores: ItemScores = no_item_scores,
) -> list[str]:
    experiments = results.drop_duplicates("experiment_id")
    models, families = experiments["model"].nunique(), experiments["family"].nunique()
    settings = settings_of(experiments)
    cards = [_card(results, find(results, m, axis, task, scores), scores) for m in metrics]
    return [
        "<h1>Which precision is best for a given number of bits?</h1>",
        f'<p class="muted">{len(experiments):,} experiments: {models} models of {families} '
        f"{'family' if families == 1 else 'families'} at {len(set(settings))} precision settings. "
        f"Size counted: {AXIS_NAMES[axis]}.</p>",
        '<div class="answers">',
        *cards,
        "</div>",
        '<p class="small muted">Shares are of the budgets, evenly spaced on a log scale, at which '
        "two or more precisions can be compared; over several families, means over them. “Clear” "
        "means that the lead over the best setting of another precision has a 95% interval that "
        "leaves out 0, paired over the items that both were scored on; it is said of each budget "
        f"by itself. {LEADS}</p>",
    ]


def _card(results: pd.DataFrame, finding: Finding, scores: ItemScores) -> str:
    name = f'<p class="muted small">By {escape(name_metric(finding.metric, finding.tasks))}</p>'
    if finding.shares.empty:
        why = escape(why_undecided(finding))
        what = "Not clear of chance" if finding.at_chance else "Undetermined"
        return f'<div class="card">{name}<p class="big">{what}</p><p>{why}.</p></div>'
    best = finding.by_precision
    rest = f"Then {list_shares(best.iloc[1:])}." if len(best) > 1 else "It wins everywhere."
    families = [f for f in finding.shares["family"].unique() if f != EVERY_FAMILY]
    lines = [f"<li>{_family_line(finding, family)}</li>" for family in families]
    lines += [
        f"<li><b>{escape(family)}</b>: undetermined, {escape(why)}</li>"
        for family, why in finding.undecided.items()
    ]
    clear = clear_part(finding)
    return (
        f'<div class="card">{name}<p class="big">{dot(best.index[0])}{best.index[0]:g}-bit wins '
        f"{best['share'].iloc[0]:.0%} of budgets</p>"
        f'<p class="muted small">{escape(range_part(finding))}</p><p>{rest} '
        f"{clear[0].upper()}{clear[1:]}.</p>{_main_alone(results, finding, scores)}"
        f"<ul>{''.join(lines)}</ul></div>"
    )


def _main_alone(results: pd.DataFrame, finding: Finding, scores: ItemScores) -> str:
    """The answer when only the main setting of each precision competes, if others do at all."""
    task = finding.tasks[0] if len(finding.tasks) == 1 else None
    settings = [c.setting for c in scaling_curves(results, finding.metric, finding.axis, task)]
    main = main_settings(settings)
    example = next((s for s in main if not s.keeps_weights), None)
    if main == set(settings) or example is None:
        return ""
    alone = find(with_settings(results, main), finding.metric, finding.axis, task, scores)
    if alone.shares.empty:
        return ""
    block = name_blocks(example.block_size, example.by_row)
    which = escape(f"{example.data_type}, {block}, scope {example.scope}")
    return (
        f"<p>Among the main settings alone ({which}): <b>{list_shares(alone.by_precision)}</b>; "
        f"{clear_part(alone)}.</p>"
    )


def _family_line(finding: Finding, family: str) -> str:
    """One family's answer."""
    shares = finding.of_family(family)
    by_bits, first = by_precision(shares), shares.iloc[0]
    low, high = format_bits(first["low_bits"]), format_bits(first["high_bits"])
    line = (
        f"<b>{escape(family)}</b>, {low} to {high}: {by_bits.index[0]:g}-bit at "
        f"{by_bits['share'].iloc[0]:.0%}"
    )
    of_best = shares[shares["bits"] == by_bits.index[0]]
    if len(of_best) > 1:
        line += f" (mostly {escape(of_best['setting'].iloc[0])})"
    if family not in finding.errorless:
        line += f", clear leads at {by_bits['clear_share'].sum():.0%}"
    complete = by_bits["complete_share"].dropna()
    if len(complete):
        line += (
            f"; where every setting reaches ({first['completeness']:.0%} of these budgets), "
            f"{complete.idxmax():g}-bit at {complete.max():.0%}"
        )
        if family not in finding.errorless:
            line += f", clear leads at {by_bits['complete_clear_share'].sum():.0%}"
    if family in finding.at_chance:
        line += f"; at chance at {finding.at_chance[family]:.0%} of the range"
    return line
