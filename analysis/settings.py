"""Precision settings: everything about an experiment but its model."""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from quantizers.config import default_exponent_bits

# fmt: off
SETTING_COLUMNS = [
    "method", "bits", "data_type", "exponent_bits", "block_size", "outlier_fraction", "centered",
    "scope",
]
# fmt: on


@dataclass(frozen=True)
class Setting:
    """One precision setting, as the columns of `results` give it."""

    method: str
    bits: int
    data_type: str | None
    exponent_bits: int | None
    block_size: int | None
    outlier_fraction: float
    centered: bool
    scope: str

    @property
    def label(self) -> str:
        """Short and unique: "16-bit", "4-bit float E2 B64", "3-bit int per tensor p=2%"."""
        if self.bits == 16:
            return "16-bit"
        exponent = f" E{self.exponent_bits}" if self.exponent_bits is not None else ""
        block = f" B{self.block_size}" if self.block_size is not None else " per tensor"
        parts = [f"{self.bits}-bit {self.data_type}{exponent}{block}"]
        parts += [f"p={self.outlier_fraction:.3g}"] if self.outlier_fraction else []
        parts += ["centered"] if self.centered else []
        parts += [f"scope {self.scope}"] if self.scope != "linear" else []
        parts += [self.method] if self.method != "rtn" else []
        return " ".join(parts)


def setting_of(row: pd.Series) -> Setting:
    """The precision setting of one row of results."""
    return setting_from(tuple(row[column] for column in SETTING_COLUMNS))


def settings_of(rows: pd.DataFrame) -> list[Setting]:
    """The precision setting of every row of results; each distinct one is read once."""
    if rows.empty:
        return []
    group = rows.groupby(SETTING_COLUMNS, dropna=False, sort=False).ngroup().to_numpy()
    _, first = np.unique(group, return_index=True)
    distinct = [setting_of(rows.iloc[i]) for i in first]
    return [distinct[i] for i in group]


def setting_from(values: Sequence[Any]) -> Setting:
    """A Setting from raw column values, where SQL's NULL arrives as None, NaN or NA."""
    known: dict[str, Any] = {
        column: None if value is None or value is pd.NA or value != value else value
        for column, value in zip(SETTING_COLUMNS, values, strict=True)
    }
    data_type, exponent, block = (known[c] for c in ("data_type", "exponent_bits", "block_size"))
    return Setting(
        method=str(known["method"]),
        bits=int(known["bits"]),
        data_type=None if data_type is None else str(data_type),
        exponent_bits=None if exponent is None else int(exponent),
        block_size=None if block is None else int(block),
        outlier_fraction=float(known["outlier_fraction"] or 0.0),
        centered=bool(known["centered"]),
        scope=str(known["scope"]),
    )


def main_settings(settings: Sequence[Setting]) -> set[Setting]:
    """The settings drawn solid: one a precision, of the most common data type and block size.

    `settings` may repeat (one entry a curve): counts decide. Only plain round-to-nearest over the
    linear layers qualifies where there is any.
    """
    quantized = [s for s in settings if s.bits < 16]
    plain = [
        s
        for s in quantized
        if s.method == "rtn" and s.scope == "linear" and not s.centered and not s.outlier_fraction
    ] or quantized
    common = Counter((s.data_type, s.block_size) for s in plain).most_common(1)
    main = {s for s in settings if s.bits == 16}
    for bits in {s.bits for s in plain}:
        usual = [s for s in plain if s.bits == bits and (s.data_type, s.block_size) == common[0][0]]
        if usual:
            times = Counter(usual)
            main.add(max(times, key=lambda s: (times[s], _usual_exponent(s))))
    return main


def _usual_exponent(setting: Setting) -> bool:
    """Whether a setting has the default exponent bits (appendix C.4), or none to choose."""
    bits = setting.exponent_bits
    return bits is None or bits == default_exponent_bits(setting.bits)


def with_settings(results: pd.DataFrame, settings: Collection[Setting]) -> pd.DataFrame:
    """The rows of `results` whose experiment has one of `settings`."""
    experiments = results.drop_duplicates("experiment_id")
    keep = [setting in settings for setting in settings_of(experiments)]
    return results[results["experiment_id"].isin(experiments.loc[keep, "experiment_id"])]
