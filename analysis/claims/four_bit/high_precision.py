"""The embedded study's section on the precisions at which nothing should matter any more."""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from analysis.claims.claim import FAILS, HOLDS, OPEN, VOTES, Claim, between, table, votes
from analysis.claims.four_bit.factors import BLOCK, at_blocks, effects_of
from analysis.curves.names import listed
from analysis.noise.bootstrap import ItemScores

_FIFTH = 0.2  # of the largest effect at 4 bit: what "nothing helps" leaves room for


def high_precision_claims(linear: pd.DataFrame, scores: ItemScores) -> Iterator[Claim]:
    types = effects_of(at_blocks(linear, BLOCK), "data_type", scores)
    blocks = effects_of(at_blocks(linear, BLOCK, 1024), "block_size", scores)
    if types.empty or blocks.empty or not types["bits"].isin([6, 7, 8]).any():
        return
    rows, verdicts, evidence = [], [], []
    for family in types["family"].unique():
        found = {bits: _largest(types, blocks, family, bits) for bits in sorted(set(types["bits"]))}
        at_four = found.get(4, (0.0, 0.0, 0.0))[0]
        room = _FIFTH * at_four
        high = [effect for bits, effect in found.items() if bits >= 6]
        if not high or not room:
            continue
        for bits, (effect, least, most) in found.items():
            rows.append([str(family), f"{bits:g}-bit", f"{effect:.4f}"])
            rows[-1] += [between(least, most, ".4f"), f"{effect / at_four:.0%}"]
        beyond = any(least > room for _, least, _ in high)
        within = all(most < room for *_, most in high)
        verdicts.append(FAILS if beyond else HOLDS if within else OPEN)
        largest, least, most = max(high)
        evidence.append(
            f"{largest:.4f} nats ({between(least, most, '.4f')}) beside {at_four:.4f} at 4 bit "
            f"({family})"
        )
    if not verdicts:
        return
    yield Claim(
        "At 6 to 8 bit nothing helps",
        "section 5.2, figures 10 and 11",
        "For 6 to 8 bit neither data type nor block size improves scaling: curves coincide.",
        votes(verdicts),
        f"largest effect at 6 to 8 bit {listed(evidence)}",
        [
            f"The largest of two effects: between the best and the worst data type (blocks of "
            f"{BLOCK}), and from blocks of 1024 to {BLOCK} (float). The interval's ends bound both "
            "from the paired 90 % intervals of the single effects: below, the largest effect that "
            "is sure; above, the largest that is possible. “Nothing” is what is below a fifth of "
            "the family's effect at 4 bit: in a family the claim holds if no larger effect is "
            f"possible at 6 to 8 bit, does not hold if a larger one is sure, else it is open. "
            f"{VOTES}",
            table(["Family", "Precision", "Largest effect (nats)", "Interval", "Of that at 4 bit"],
                  rows, text=2),
        ],
    )  # fmt: skip


def _largest(
    types: pd.DataFrame, blocks: pd.DataFrame, family: str, bits: int
) -> tuple[float, float, float]:
    """The larger of a precision's two effects, what it surely is and what it may be (nats)."""
    own, block = (e[(e["family"] == family) & (e["bits"] == bits)] for e in (types, blocks))
    low, high = own["gain_low"].clip(upper=0).min(), own["gain_high"].clip(lower=0).max()
    effects = [own["gain"].clip(lower=0).max() - own["gain"].clip(upper=0).min()]
    effects += block["gain"].abs().tolist()
    both = pd.concat([own, block])
    # The nearer end of an interval that lies on one side of zero.
    sure = np.maximum(both["gain_low"], -both["gain_high"]).clip(lower=0).max()
    return max(effects), float(sure), max(high - low, *block[["gain_low", "gain_high"]].abs().max())
