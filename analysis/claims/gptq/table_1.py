"""Table 1: 2-bit GPTQ against 3-bit float in blocks."""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from analysis.claims.claim import JOINTLY, Claim, Exhibit, jointly, table
from analysis.claims.gptq.points import losses, nearest, one_shot, versus
from analysis.claims.leads import COLUMNS, Lead, told
from analysis.claims.paper import Study
from analysis.curves.names import listed
from analysis.noise.bootstrap import ItemScores

PUBLISHED = {1024: (11.84, 13.26), 256: (10.00, 10.38), 64: (9.18, 9.99)}
"""Block size -> WikiText-2 perplexity of 2-bit GPTQ and of 3-bit float, as printed."""


def _duels(points: pd.DataFrame, scores: ItemScores) -> dict[int, Lead]:
    found = {b: versus(points, one_shot(2, b), nearest(3, b), scores) for b in PUBLISHED}
    return {block: made for block, made in found.items() if made is not None}


def claims(study: Study) -> Iterator[Claim]:
    duels = _duels(losses(study.results), study.scores)
    if not duels:
        return
    verdicts = {block: d.verdict() for block, d in duels.items()}
    rows = [[str(block), *d.cells, verdicts[block]] for block, d in duels.items()]
    missing = [str(block) for block in PUBLISHED if block not in duels]
    diverged = sum(d.found.diverged for d in duels.values())
    notes = [f"Not measured: blocks of {listed(missing)}."] if missing else []
    notes += [f"Left out as one of the two diverged: {diverged} pairs."] if diverged else []
    yield Claim(
        "2-bit GPTQ in blocks beats 3-bit float",
        "section 7, table 1",
        "In blocks, 2-bit GPTQ yields a better model than 3-bit float, which takes a bit more.",
        jointly(list(verdicts.values())),
        "lead of 2-bit GPTQ in nats: "
        + "; ".join(f"in blocks of {block} {told(d.cells)}" for block, d in duels.items()),
        [
            "2-bit int by GPTQ less 3-bit float to nearest, in the same blocks of the same models "
            "(positive: GPTQ is better). "
            f"{JOINTLY}",
            table(["Block", *COLUMNS, "Claim"], rows),
            *notes,
        ],
    )


def exhibits(study: Study) -> Iterator[Exhibit]:
    duels = _duels(losses(study.results), study.scores)
    if not duels:
        return
    rows = [
        [str(block), "the paper's, on WikiText-2", *(f"{ppl:.2f}" for ppl in PUBLISHED[block]), ""]
        for block in PUBLISHED
    ]
    for block, made in duels.items():
        for pair in made.found.pairs.sort_values(["family", "n_params_first"]).itertuples():
            ppl = (f"{np.exp(loss):.2f}" for loss in (pair.value_first, pair.value_second))
            name = f"{pair.model}, {pair.task_first}"
            rows.append([str(block), name, *ppl, f"{pair.lead:+.4f}"])
    yield Exhibit(
        "Perplexity of 2-bit GPTQ and 3-bit float",
        "table 1",
        [
            "The paper does not say which model its numbers are of. A perplexity is that of the "
            "text and the tokens it was measured on: compare within a row.",
            table(
                ["Block", "Model and text", "2-bit GPTQ", "3-bit float", "Lead (nats)"],
                rows,
                text=2,
            ),
        ],
    )
