"""The papers' claims on these results as HTML, and what each factor is worth."""

import pandas as pd

from analysis.claims.claim import Block, Claim, Exhibit, between
from analysis.claims.paper import Study
from analysis.claims.papers import PAPERS
from analysis.curves.names import METRIC_NAMES
from analysis.documents.markup import escape
from analysis.documents.page import dot, table
from analysis.findings.effects import FACTORS, factor_effects
from analysis.noise.bootstrap import ItemScores

_MOST_EFFECTS = 400  # rows; a study with more has them in `kbit results`


def claim_sections(
    results: pd.DataFrame, metrics: list[str], axis: str, scores: ItemScores
) -> list[str]:
    """HTML: by paper, the claims that these results can test, each with verdict and tables."""
    metric = "cross_entropy" if "cross_entropy" in metrics else metrics[0]
    study = Study(results, scores, axes=[axis])
    parts = []
    for paper in PAPERS.values():
        claims = [section(claim) for claim in paper.claims(study)]
        made = [*claims, *(exhibit(made) for made in paper.exhibits(study))] if claims else []
        made += _effects(results, metric, scores) if paper.name == "four-bit" else []
        heading = f"<h2>{escape(paper.citation.replace('*', ''))}: claims on these results</h2>"
        parts += [heading, *made] if made else []
    return parts


def section(claim: Claim) -> str:
    """One claim; its paragraphs and tables fold."""
    evidence = claim.evidence[0].upper() + claim.evidence[1:]
    return (
        f"<h3>{escape(claim.title)}: {escape(claim.verdict)}</h3>"
        f'<p class="muted small">Claim ({escape(claim.source)}): {escape(claim.claim)}</p>'
        f"<p>{escape(evidence)}.</p><details><summary>How this was judged</summary>"
        f"{''.join(_block(block) for block in claim.body)}</details>"
    )


def exhibit(made: Exhibit) -> str:
    """A table or passage of the paper, folded."""
    return (
        f"<h3>{escape(made.title)}</h3><details><summary>As {escape(made.source)}</summary>"
        f"{''.join(_block(block) for block in made.body)}</details>"
    )


def _block(block: Block) -> str:
    if isinstance(block, str):
        return f"<p>{escape(block)}</p>"
    rows = [[escape(cell) for cell in row] for row in block.rows]
    return table(block.columns, rows, numbers=block.columns[block.text :])


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
                FACTORS[row.factor],
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


def _ends(low: float, high: float, spec: str) -> str:
    return between(low, high, spec) or "errors unknown"
