"""How much there is of a training study: seeds, runs, and what training itself did."""

from collections.abc import Iterator

from analysis.claims.claim import JOINTLY, Exhibit, table
from analysis.claims.intriguing.matched import MATCHED
from analysis.claims.intriguing.runs import DOSES, Ladder, Model
from analysis.claims.intriguing.seeds import HOW, LEAST_SEEDS, RULE

WANTED_SEEDS = 5


def study_size(ladder: Ladder) -> Iterator[Exhibit]:
    if not ladder.points:
        return
    rows = []
    for size in ladder.sizes:
        for variant in ladder.variants:
            models = [m for m in ladder.points if (m.size, m.variant) == (size, variant)]
            if models:
                rows.append([size, variant, _listed(models), *_trained(ladder, size, variant)])
    most = max(len(row[2].split()) for row in rows)
    whole = min(len(row[2].split()) for row in rows)
    yield Exhibit(
        HOW,
        "the paper does not: its variants were trained once, and compared without errors",
        [RULE, JOINTLY, MATCHED],
    )
    yield Exhibit(
        "How many seeds there are",
        "the paper does not say: its variants have one each",
        [
            f"{len(ladder.points)} runs have been scored, of {len(ladder.variants)} variants; "
            f"between {whole} and {most} seeds each. A verdict takes {LEAST_SEEDS} seeds that both "
            f"variants have; {WANTED_SEEDS} are wanted. Runs are trained in the order of their "
            "seeds, so what is missing is missing of the last seed. Doses: "
            f"{', '.join(DOSES)} (W: integer weights a row, or a tensor; A: activations a token, "
            "or static with one scale a site).",
            table(
                ["Size", "Variant", "Seeds", "Held-out loss", "Clipped steps", "Skipped steps"],
                rows,
                text=3,
            ),
        ],
        ("figure-02-variants",),
    )


def _listed(models: list[Model]) -> str:
    return " ".join(str(seed) for seed in sorted(model.seed for model in models))


def _trained(ladder: Ladder, size: str, variant: str) -> list[str]:
    """Of the last models: mean held-out loss, clipped steps of all, skipped steps of all."""
    runs = ladder.runs
    if runs.empty:
        return ["", "", ""]
    mine = runs[(runs["size"] == size) & (runs["variant"] == variant)]
    last = mine.sort_values("step").groupby("seed").tail(1)
    if last.empty:
        return ["", "", ""]
    skipped = last["skipped_steps"].dropna().astype(str).str.split().str.len().fillna(0).sum()
    clipped = int(last["clipped_steps"].fillna(0).sum())
    return [f"{last['heldout_loss'].mean():.4f}", str(clipped), str(int(skipped))]
