"""Frames as analyses expect them, whichever database and driver their cells came from."""

from __future__ import annotations

from dataclasses import fields

import pandas as pd

from orchestrator.store.schema import INTEGER_COLUMNS
from quantizers.setting import Setting

# fmt: off
_DTYPES = {
    **dict.fromkeys(INTEGER_COLUMNS, "Int64"),  # whole numbers that may be missing
    **{field.name: "bool" for field in fields(Setting) if field.type == "bool"},
    **dict.fromkeys(("value", "stderr", "nominal_bits"), "float64"),
    "n_items": "int64",
}
# fmt: on


def typed(frame: pd.DataFrame) -> pd.DataFrame:
    """`frame` with the dtypes of its columns made those of `Store.results`, in place.

    `bits` are integers; beside fractions (imports) they are Python numbers, so that 4 stays 4.
    """
    for name in frame.columns:
        if name in _DTYPES:
            frame[name] = frame[name].astype(_DTYPES[name])
    if "bits" in frame.columns:
        whole = [int(bits) if bits == int(bits) else bits for bits in frame["bits"]]
        fractions = any(isinstance(bits, float) for bits in whole)
        frame["bits"] = pd.Series(whole, frame.index, dtype=object if fractions else "int64")
    return frame
