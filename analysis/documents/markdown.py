"""Claims and exhibits as Markdown, for documents that are kept with the code."""

from collections.abc import Mapping, Sequence

from analysis.claims.claim import Block, Claim, Exhibit, Table


def text(block: Block) -> str:
    """A paragraph or table as Markdown."""
    if isinstance(block, str):
        return block
    rule = ["---" if i < block.text else "---:" for i in range(len(block.columns))]
    return "\n".join(f"| {' | '.join(row)} |" for row in [block.columns, rule, *block.rows])


def summary(claims: Sequence[Claim]) -> str:
    """All claims as one table, with links to their sections."""
    rows = [[f"[{c.title}](#{anchor(c.title)})", f"**{c.verdict}**", c.evidence] for c in claims]
    return text(Table(["Claim", "Here", "What was measured"], rows, 3))


def section(claim: Claim, figures: Mapping[str, str]) -> list[str]:
    """One claim under its heading; `figures`: name -> address."""
    return [
        f"## {claim.title}",
        f"Claim ({claim.source}): {claim.claim}",
        f"**Here: {claim.verdict}.** {claim.evidence[0].upper()}{claim.evidence[1:]}.",
        *(text(block) for block in claim.body),
        *_shown(claim, figures),
    ]


def exhibit(made: Exhibit, figures: Mapping[str, str]) -> list[str]:
    """A table, figure or passage of the paper under its heading."""
    return [
        f"## {made.title}",
        f"As {made.source}.",
        *(text(block) for block in made.body),
        *_shown(made, figures),
    ]


def _shown(made: Claim | Exhibit, figures: Mapping[str, str]) -> list[str]:
    return [f"![{name}]({figures[name]})" for name in made.figures if name in figures]


def anchor(title: str) -> str:
    """The address of a heading within its document."""
    kept = "".join(c for c in title.lower() if c.isalnum() or c in " -")
    return kept.replace(" ", "-")
