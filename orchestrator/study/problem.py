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
    "float_parsing": "a number",
    "float_type": "a number",
    "int_from_float": "a whole number",
    "int_parsing": "a whole number",
    "int_type": "a whole number",
    "list_type": "a list",
    "model_type": "a mapping",
    "string_type": "text",
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
    if problems[0]["type"] == "extra_forbidden":
        return f"{where}: unknown key"
    return f"{where}: {problems[0]['msg'].removeprefix('Value error, ')}"


def _takes(problem: Mapping[str, Any]) -> str | None:
    if problem["type"] == "literal_error":
        return re.sub(r"'([^']*)'", r"\1", problem["ctx"]["expected"])
    return _TAKES.get(problem["type"])
