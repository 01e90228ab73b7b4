"""Cells of a table, a CSV or an import as the values they stand for, by the type of their field."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import Field
from typing import Any


def read_cells(row: Mapping[str, Any], columns: Mapping[str, Field]) -> dict[str, Any]:
    """The cells of `row` that say something, each as its column's field has it.

    Absent, None, NaN, NA and "" say nothing. Raises ValueError naming the column at fault.
    """
    return {
        name: _READ[str(field.type)](row[name], name)
        for name, field in columns.items()
        if not _missing(row.get(name))
    }


def _missing(cell: object) -> bool:
    return str(cell) in ("", "None", "nan", "NaN", "<NA>")


def _number(cell: Any, column: str) -> float:
    try:
        number = float(cell)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{column} {cell!r} is not a number")
    return number


def _whole(cell: Any, column: str) -> int:
    number = _number(cell, column)
    if number != int(number) or number < 1:
        raise ValueError(f"{column} {cell!r} is not a whole number >= 1")
    return int(number)


def _flag(cell: Any, column: str) -> bool:
    text = str(cell).lower()
    if text not in ("true", "false", "1", "0", "1.0", "0.0"):
        raise ValueError(f"{column} {cell!r} is neither true nor false")
    return text in ("true", "1", "1.0")


def _text(cell: Any, _column: str) -> str:
    return str(cell)


_READ: dict[str, Callable[[Any, str], Any]] = {
    "bool": _flag,
    "float": _number,
    "int | None": _whole,
    "str": _text,
    "str | None": _text,
}
