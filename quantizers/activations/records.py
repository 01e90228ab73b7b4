"""What is told of each site whose input is rounded: its format, ranges, and what clamps."""

from __future__ import annotations

from quantizers.activations.layer import QuantizedInput
from quantizers.calibration import Statistics
from quantizers.folding.fold import Fold
from quantizers.wiring import Site

Record = dict[str, float | str]


def input_record(
    site: Site, layer: QuantizedInput, seen: Statistics | None, folding: Fold
) -> Record:
    """`format` (what a policy chose); of calibration: `range`, the largest magnitude, and
    `median_channel`, that of the median channel; `range_read` and `median_channel_read`, the same
    after folding; `median_token` and `token_99`, what half and 99 % of the tokens stay within
    before it; `levels`, how many steps of a static scale the median channel reaches.

    A static scale collapses where levels are few: all but some channels round to a handful of
    values (FPTQ's 2^8 m_i / m, section 3.3.1). seen: None where the setting reads none.
    """
    chosen = layer.site_format.format
    record: Record = {"format": f"{chosen.name} {chosen.bits}"}
    if seen is None:
        return record
    channels = folding.channel_max(site, seen)
    maximum, median = float(channels.max()), float(channels.median())
    limit = 2 ** (chosen.bits - 1) - 1
    return record | {
        "range": seen.maximum,
        "range_read": maximum,
        "median_channel": float(seen.channel_max.median()),
        "median_channel_read": median,
        "median_token": seen.token_range(0.5),
        "token_99": seen.token_range(0.99),
        "levels": limit * median / maximum if maximum else 0.0,
    }


def clamped(layer: QuantizedInput) -> Record:
    """`clamped`: the share of what a static scale rounded since that lay beyond its range."""
    share = layer.clamped_share
    return {} if share is None else {"clamped": share}
