"""The study's section on models fine-tuned from others, where it has both."""

from collections.abc import Iterator

import pandas as pd

from analysis.claims.claim import FAILS, HOLDS, PARTLY, Claim, between, judged, sign, table
from analysis.claims.four_bit.figures import LOSS
from analysis.findings.families import compare_families
from analysis.noise.bootstrap import ItemScores


def tuning_claims(results: pd.DataFrame, scores: ItemScores) -> Iterator[Claim]:
    found = compare_families(results, metric=LOSS, scores=scores)
    if found.empty:
        return
    signs = [sign(row.low, row.high) for row in found.itertuples()]
    rows = [
        [f"{r.bits:g}-bit", f"{r.first_loss:+.4f}", f"{r.second_loss:+.4f}", f"{r.difference:+.4f}"]
        + [between(r.low, r.high), str(r.n_models)]
        for r in found.itertuples()
    ]
    same, paired = signs.count(0), (found["errors"] == "paired").all()
    verdict = HOLDS if same == len(signs) else PARTLY if 2 * same >= len(signs) else FAILS
    yield Claim(
        "Fine-tuning does not change what quantization costs",
        "appendix C.1",
        "BLOOM and BLOOMZ, fine-tuned from it, behave alike.",
        judged(verdict, found["low"]),
        f"no clear difference at {same} of {len(signs)} precisions",
        [
            "What each precision adds to the loss of 16 bit, the mean over sizes that both "
            "families have, main settings; errors "
            f"{'paired over items' if paired else 'as if independent'}. The claim holds if the two "
            "differ clearly at no precision, in part if at no more than half.",
            table(
                ["Precision", "BLOOM (nats)", "BLOOMZ", "Difference", "90 % interval", "Sizes"],
                rows,
            ),
        ],
    )
