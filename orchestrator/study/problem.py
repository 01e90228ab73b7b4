"""What is wrong with a file that pydantic read, as one plain line."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

# What a key takes, by the type of pydantic's complaint, whose own words are a programmer's.
_TAKES = {
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "byte_size": "a size such as 64GiB",
    "byte_size_unit": "a size such as 64GiB",
    "dict_type": "a mapping",
    "finite_number": "a finite number",
    "float_parsing": "a number",
    "float_type": "a number",
    "int_from_float": "a whole number",
    "int_parsing": "a whole number",
    "int_type": "a whole number",
    "list_type": "a list",
    "model_type": "a mapping",
    "string_type": "text",
}
# Likewise a bound: how it is said, and its name in the complaint.
_BOUNDS = {
    "greater_than": ("above {}", "gt"),
    "greater_than_equal": ("from {} on", "ge"),
    "less_than": ("below {}", "lt"),
    "less_than_equal": ("up to {}", "le"),
}
_SAID = {
    "extra_forbidden": "unknown key",
    "invalid_key": "a key is text",
    "missing": "missing",
    "too_short": "an empty list asks for nothing",
}


def first_problem(error: ValidationError) -> str:
    """Pydantic's first complaint as `key.path: reason`."""
    problems = error.errors()
    place = problems[0]["loc"]
    # A union complains once a branch, with the branch's name as the last part of the place.
    branches = [p for p in problems if len(p["loc"]) > 1 and p["loc"][:-1] == place[:-1]]
    if any(str(p["loc"][-1]).startswith("literal[") for p in branches):
        place = place[:-1]
        branches.sort(key=lambda p: p["type"] != "literal_error")
    else:
        branches = problems[:1]
    where = ".".join(map(str, place)) or "top level"
    takes = [what for p in branches if (what := _takes(p))]
    if len(takes) == len(branches):
        return f"{where}: takes {', '.join(takes)}, not {reprlib.repr(problems[0]['input'])}"
    said = _SAID.get(problems[0]["type"]) or problems[0]["msg"].removeprefix("Value error, ")
    return f"{where}: {said}"


def _takes(problem: Mapping[str, Any]) -> str | None:
    kind = problem["type"]
    if kind == "literal_error":
        return re.sub(r"'([^']*)'", r"\1", problem["ctx"]["expected"])
    if kind in _BOUNDS:
        words, name = _BOUNDS[kind]
        return "numbers " + words.format(problem["ctx"][name])
    return _TAKES.get(kind)
