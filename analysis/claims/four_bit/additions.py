"""The embedded study's sections on what can be added: centering, proxy outliers, embeddings."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import pandas as pd

from analysis.claims.claim import FAILS, HOLDS, OPEN, PARTLY, Claim, between, judged, sign, table
from analysis.claims.four_bit.factors import BLOCK, effects_of
from analysis.claims.four_bit.figures import LOSS
from analysis.claims.four_bit.optimum import linear_only
from analysis.curves.scaling import scaling_curves
from analysis.curves.settings import is_baseline
from analysis.findings.families import curve_lead
from analysis.noise.bootstrap import ItemScores
from quantizers.data_types import DATA_TYPES, default_exponent_bits


def addition_claims(results: pd.DataFrame, scores: ItemScores) -> Iterator[Claim]:
    linear = linear_only(results)
    made = (_centering(linear, scores), _outliers(linear, scores), _scope(results, scores))
    yield from (claim for claim in made if claim is not None)


def _cells(
    linear: pd.DataFrame, factor: str, blocks: Sequence[int | None], scores: ItemScores
) -> pd.DataFrame:
    """A factor's effects for every data type and block size (columns data_type and block)."""
    parts, unquantized = [], is_baseline(linear)
    for block in blocks:
        same = linear["block_size"].isna() if block is None else linear["block_size"] == block
        for data_type in DATA_TYPES:
            wanted = unquantized | (same & (linear["data_type"] == data_type))
            found = effects_of(linear[wanted], factor, scores)
            name = "tensor" if block is None else str(block)
            parts.append(found.assign(data_type=data_type, block=name))
    return pd.concat(parts, ignore_index=True)


def _count(cells: pd.DataFrame) -> list[str]:
    """How many of these effects are clearly positive, open and clearly negative; their mean."""
    signs = [sign(cell.gain_low, cell.gain_high) for cell in cells.itertuples()]
    counts = [str(signs.count(s)) for s in (1, 0, -1)]
    return [*counts, f"{cells['gain'].mean():+.4f}", f"{cells['gain'].max():+.4f}"]


_COUNTS = ["Clearly better", "Open", "Clearly worse", "Mean gain (nats)", "Largest"]


def _centering(linear: pd.DataFrame, scores: ItemScores) -> Claim | None:
    cells = _cells(linear, "centered", (BLOCK, None), scores)
    if cells.empty or "gain" not in cells:
        return None
    groups = cells.groupby(["block", "bits"], sort=False)
    rows = [[f"{block}", f"{bits:g}-bit", *_count(part)] for (block, bits), part in groups]
    paper = cells[cells["block"] == "tensor"]
    tested = paper if len(paper) else cells
    clear = [sign(r.gain_low, r.gain_high) for r in tested.itertuples()]
    share = clear.count(1) / len(clear)
    return Claim(
        "Centering does not help",
        "appendix B",
        "Subtracting the mean before quantization and adding it after improves nothing.",
        judged(HOLDS if share <= 0.1 else FAILS if share > 0.5 else PARTLY, tested["gain_low"]),
        f"clearly better in {clear.count(1)}, clearly worse in {clear.count(-1)} of {len(clear)} "
        f"cases ({'whole tensors, as the paper' if len(paper) else 'blocks'})",
        [
            "Cases: family x data type. In blocks a mean costs 16 bits a block; of a whole tensor, "
            "the paper's form, nothing. The claim holds if at most 10 % of the cases are clearly "
            "better; chance alone gives 5 %.",
            table(["Block", "Precision", *_COUNTS], rows, text=2),
        ],
    )


def _outliers(linear: pd.DataFrame, scores: ItemScores) -> Claim | None:
    cells = _cells(linear, "outlier_fraction", (BLOCK, 256), scores)
    if cells.empty or "gain" not in cells:
        return None
    groups = cells.groupby(["bits", "family"], sort=True)
    rows = [[f"{b:g}-bit", str(f), *_count(p), f"{p['cost'].mean():+.2f}"] for (b, f), p in groups]
    three = cells[cells["bits"] == 3]
    helps = [sign(r.gain_low, r.gain_high) for r in three.itertuples()]
    duel = _proxy_duel(linear, scores)
    behind = [sign(low, high) == -1 for _, _, low, high, _ in duel]
    pairs = [
        [family, f"{lead:+.4f}", between(low, high), f"{share:.0%}"]
        for family, lead, low, high, share in duel
    ]
    share = helps.count(1) / len(helps) if helps else 0.0
    return Claim(
        "Proxy outliers help 3 bit, but not past 4 bit",
        "section 5.2, figure 4",
        "Keeping the 2 % of dimensions with the largest weight deviation in 16 bit helps 3 bit, "
        "and still 3 bit with them is worse than 4 bit without.",
        judged(
            HOLDS if share > 0.5 and behind and all(behind) else PARTLY if behind else OPEN,
            three["gain_low"],
        ),
        f"at 3 bit clearly better in {helps.count(1)} of {len(helps)} cases; 3 bit with them is "
        f"clearly behind 4 bit without in {sum(behind)} of {len(behind)} families",
        [
            f"Cases: data type x block size ({BLOCK}, 256). First half of the claim: most cases at "
            "3 bit are clearly better.",
            table(["Precision", "Family", *_COUNTS, "Bits it costs"], rows, text=2),
            f"Second half: lead of 3-bit float with 2 % outliers over 4-bit float without, blocks "
            f"of {BLOCK}, at equal total bits (mean over budgets both reach).",
            table(["Family", "Lead (nats)", "90 % interval", "Ahead at"], pairs),
        ],
        ["figure-04-proxy-outliers"],
    )


def _proxy_duel(linear: pd.DataFrame, scores: ItemScores) -> list[tuple]:
    """(family, lead, low, high, share) of 3-bit float with outliers over 4-bit without."""
    curves = [
        curve
        for curve in scaling_curves(linear, LOSS)
        if curve.setting.data_type == "float"
        and curve.setting.block_size == BLOCK
        and curve.setting.exponent_bits == default_exponent_bits(int(curve.setting.bits))
        and not curve.setting.centered
    ]
    ours = {c.family: c for c in curves if c.setting.bits == 3 and c.setting.outlier_fraction}
    plain = {c.family: c for c in curves if c.setting.bits == 4 and not c.setting.outlier_fraction}
    leads = [(f, curve_lead(ours[f], plain[f], scores)) for f in ours if f in plain]
    return [(family, *lead) for family, lead in leads if lead]


def _scope(results: pd.DataFrame, scores: ItemScores) -> Claim | None:
    curves = scaling_curves(results, LOSS)
    everything = [curve for curve in curves if curve.setting.scope == "all"]
    linear = {
        (c.family, replace(c.setting, scope="all")): c
        for c in curves
        if c.setting.scope == "linear"
    }
    rows, signs, lows = [], [], []
    for curve in everything:
        partner = linear.get((curve.family, curve.setting))
        lead = curve_lead(curve, partner, scores) if partner else None
        if lead:
            mean, low, high, share = lead
            rows.append([curve.family, curve.setting.label, f"{mean:+.4f}", between(low, high)])
            rows[-1].append(f"{share:.0%}")
            signs.append(sign(low, high))
            lows.append(low)
    if not rows:
        return None
    ahead = signs.count(1)
    return Claim(
        "Quantizing the embeddings too",
        "ours, beyond the paper, whose models are so large that embeddings hardly count",
        "In models as small as these, where most bits are embeddings, quantizing them too is worth "
        "what it loses.",
        judged(
            HOLDS if ahead == len(signs) else FAILS if -1 in signs and not ahead else PARTLY, lows
        ),
        f"clearly better at equal total bits in {ahead} of {len(signs)} cases",
        [
            "Lead in nats of quantizing everything over quantizing the linear layers alone, same "
            "setting, at equal total bits (mean over budgets that both reach). The claim "
            "holds if that is clearly better in every case.",
            table(["Family", "Setting", "Lead (nats)", "90 % interval", "Ahead at"], rows, text=2),
        ],
    )
