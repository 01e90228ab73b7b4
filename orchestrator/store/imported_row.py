"""One row of other people's numbers: what it must hold, and the columns it becomes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.store.schema import PROTOCOL_COLUMNS, RUN_COLUMNS
from orchestrator.study.experiment import content_id
from quantizers.data_types import DATA_TYPES
from quantizers.setting import SCOPES, SETTING_COLUMNS, Setting

REQUIRED = ("family", "model", "n_params", "task", "metric", "value")
SIZES = ("bits_per_param", "total_bits", "quantized_bits", "nominal_bits")
_COUNTED = ("stderr", "n_items")
KNOWN = (*REQUIRED, *SETTING_COLUMNS, *SIZES, *_COUNTED, *PROTOCOL_COLUMNS, *RUN_COLUMNS)
_FRACTIONS = ("acc", "acc_norm", "exact_match")


@dataclass(frozen=True)
class ImportedRow:
    """One metric of one experiment: columns of the tables experiments, protocols, measurements."""

    experiment: dict[str, Any]
    protocol: dict[str, Any]
    measurement: dict[str, Any]

    @property
    def task(self) -> str:
        return self.protocol["task"]


def check_row(row: Mapping[str, Any], source: str) -> ImportedRow:
    """Validate a row (column -> text or number; absent, None and "" mean missing).

    Raises ValueError with the reason.
    """
    if "_width" in row:
        raise ValueError(f"expected {row['_width']} cells")
    missing = [name for name in REQUIRED if row.get(name) in (None, "")]
    if missing:
        hint = " (nan: a diverged model)" if missing[0] == "value" else ""
        raise ValueError(f"{missing[0]} is missing{hint}")
    n_params = _whole(row, "n_params", 1)
    assert n_params is not None
    setting = _setting(row)
    sizes = _sizes(row, setting, n_params)
    metric, value = str(row["metric"]), _number(row, "value")
    assert value is not None
    stderr, n_items = _number(row, "stderr"), _whole(row, "n_items", 0)
    if stderr is not None and not 0 <= stderr < math.inf:
        raise ValueError(f"stderr {row['stderr']!r} is not a finite number >= 0")
    if metric.partition(",")[0] in _FRACTIONS and not (0 <= value <= 1 or math.isnan(value)):
        raise ValueError(f"{metric} {row['value']!r} is not a fraction in [0, 1]")
    if metric == "perplexity" and value < 1:
        raise ValueError(f"perplexity {row['value']!r} is below 1")
    if metric == "cross_entropy" and value < 0:
        raise ValueError(f"cross_entropy {row['value']!r} is below 0")
    names = {
        "family": _name(row, "family", 128),
        "model": _name(row, "model", 256),
        "n_params": n_params,
    }
    experiment = {
        "id": content_id({"source": source, **names, **setting.identity()}),
        "source": source,
        **names,
        "model_source": source,
        "revision": "",
        "load_dtype": "",
        "compute_dtype": "",
        **setting.row(),
        **sizes,
        **{name: _name(row, name, 256) if row.get(name) else None for name in ("run", "variant")},
        **{name: _whole(row, name, 0) for name in ("seed", "step")},
    }
    measurement = {
        "metric": _name({"metric": metric}, "metric", 64),
        "value": None if math.isnan(value) else value,
        "stderr": stderr,
        "n_items": n_items or 0,
    }
    return ImportedRow(experiment, _protocol(row, source), measurement)


def _protocol(row: Mapping[str, Any], source: str) -> dict[str, Any]:
    """What is known of how the row was measured: limits that are not given stay out of its id."""
    task = _name(row, "task", 256)
    limits = {name: _whole(row, name, 1) for name in PROTOCOL_COLUMNS}
    settings = {"source": source} | {k: v for k, v in limits.items() if v is not None}
    return {
        "id": content_id({"task": task, **settings}),
        "task": task,
        "settings": settings,
        **limits,
    }


def _setting(row: Mapping[str, Any]) -> Setting:
    row = {**row, **_granularity(str(row.get("block_size") or ""))}
    bits = _number(row, "bits")
    if bits is None:
        bits = _bits_from_size(row)
    names = {c: _name(row, c, 32) for c in ("method", "data_type") if row.get(c)}
    setting = Setting.from_row({**row, "bits": row.get("bits") or bits, **names})
    if not setting.keeps_weights and setting.data_type is None:
        known = ", ".join(DATA_TYPES)
        raise ValueError(f"data_type is missing at {setting.bits} bit (for example one of {known})")
    exponent = setting.exponent_bits
    if exponent is not None and (setting.data_type != "float" or exponent > setting.bits - 1):
        raise ValueError(
            f"exponent_bits {exponent} do not fit {setting.bits}-bit {setting.data_type}"
        )
    if setting.scope not in SCOPES:
        raise ValueError(f"scope {setting.scope!r} is not one of {', '.join(SCOPES)}")
    return setting


def _granularity(block_size: str) -> dict[str, Any]:
    """The columns behind `row` and `group:128`, as sweeps spell what stands beside numbers."""
    if block_size == "row":
        return {"block_size": None, "by_row": True}
    if block_size.startswith("group"):
        return {"block_size": block_size.removeprefix("group").lstrip(": "), "by_row": True}
    return {}


def _bits_from_size(row: Mapping[str, Any]) -> int:
    """The whole bits that most weights have; constants of blocks may add up to 0.3 to them."""
    n_params, total = _number(row, "n_params"), _number(row, "total_bits")
    if not n_params or not total:
        raise ValueError("give bits or total_bits")
    bits = int(total / n_params + 0.01)
    if not 1 <= bits <= 16 or total / n_params > bits + 0.3:
        raise ValueError(f"total_bits / n_params is {total / n_params:.3g} bits: give bits")
    return bits


def _sizes(row: Mapping[str, Any], setting: Setting, n_params: int) -> dict[str, Any]:
    """Sizes as given; nominal bits by the formula, and total bits by nominal ones, if not given."""
    per_param = _number(row, "bits_per_param")
    if per_param is None:
        per_param = setting.bits_per_param
    nominal = _number(row, "nominal_bits")
    nominal = n_params * per_param if nominal is None else nominal
    total = _whole(row, "total_bits", 1)
    for name, size in (("bits_per_param", per_param), ("nominal_bits", nominal)):
        if not 0 < size < math.inf:
            raise ValueError(f"{name} {row[name]!r} is not a positive number")
    return {
        "bits_per_param": per_param,
        "total_bits": round(nominal) if total is None else total,
        "quantized_bits": _whole(row, "quantized_bits", 1),
        "nominal_bits": nominal,
    }


def _number(row: Mapping[str, Any], name: str) -> float | None:
    given = row.get(name)
    if given in (None, ""):
        return None
    try:
        number = float(given)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise ValueError(f"{name} {given!r} is not a number") from None
    # A diverged model's loss is inf or nan; no other column can be.
    if name != "value" and not math.isfinite(number):
        raise ValueError(f"{name} {given!r} is not finite")
    return number


def _whole(row: Mapping[str, Any], name: str, least: int) -> int | None:
    number = _number(row, name)
    if number is None:
        return None
    if number != int(number) or number < least:
        raise ValueError(f"{name} {row[name]!r} is not a whole number >= {least}")
    return int(number)


def _name(row: Mapping[str, Any], column: str, most: int) -> str:
    text = str(row[column])
    if len(text) > most:
        raise ValueError(f"{column} is longer than {most} characters")
    return text
