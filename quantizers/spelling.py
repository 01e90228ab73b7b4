"""Factors of a setting that sweep files spell in words of their own: blocks, rounding."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from quantizers.granularity import Granularity

GPTQ_OPTIONS = ("order", "damping", "hessian", "dead")
HESSIANS = ("original", "sequential")
DEAD = ("nearest", "zero")


def granularity_of(spelled: Any) -> Granularity:
    """Of 64, None (one block a tensor), "row" or {"group": 128}. Raises ValueError."""
    group = isinstance(spelled, Mapping) and set(spelled) == {"group"}
    size = spelled["group"] if group else spelled
    if spelled is None or spelled == "row":
        return Granularity(None, spelled == "row")
    if not is_whole(size) or size < 1:
        raise ValueError(
            f"block_size: {spelled!r} is not a whole number >= 1, null (one block a tensor), "
            "row (one a row) or {group: 128} (of a row)"
        )
    return Granularity(size, group)


def rounding_of(spelled: Any) -> tuple[str, dict[str, Any]]:
    """(method, its options as fields) of nearest, gptq or {gptq: {...}}. Raises ValueError."""
    if spelled == "nearest":
        return "rtn", {}
    if spelled == "gptq":
        return "gptq", {}
    if not isinstance(spelled, Mapping) or set(spelled) != {"gptq"}:
        raise ValueError(f"rounding: {spelled!r} is not one of nearest, gptq")
    options = spelled["gptq"]
    unknown = set(options) - set(GPTQ_OPTIONS) if isinstance(options, Mapping) else {options}
    if unknown:
        raise ValueError(
            f"rounding: gptq has no option {', '.join(map(repr, sorted(unknown, key=str)))}; "
            f"known: {', '.join(GPTQ_OPTIONS)}"
        )
    _check_gptq(options)
    return "gptq", {f"gptq_{name}": value for name, value in options.items()}


def _check_gptq(options: Mapping[str, Any]) -> None:
    order, damping = options.get("order", True), options.get("damping", 0.0)
    if not isinstance(order, bool):
        raise ValueError(f"rounding: order {order!r} is neither true nor false")
    if not is_number(damping) or not 0 <= damping <= 1:
        raise ValueError(f"rounding: damping {damping!r} is not from 0 to 1")
    for name, known in (("hessian", HESSIANS), ("dead", DEAD)):
        if (value := options.get(name, known[0])) not in known:
            raise ValueError(f"rounding: {name} {value!r} is not one of {', '.join(known)}")


def is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
