"""What was measured on a device and decides which kernel it takes; elsewhere a guess is taken.

`make gpu` writes measured.json: for each device, by its name, the values that it found and the
date. Results do not depend on them, but for the order of sums.
"""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from quantizers.kernels import tuning

FILE = Path(__file__).with_name("measured.json")
LIBRARY_TOKENS, MULTIPLY_ROWS = "library_tokens", "multiply_rows"


def library_tokens(device: torch.device) -> int:
    """Rows of x from which cuBLASLt's int8 product takes the place of ours."""
    return int(of_device(device).get(LIBRARY_TOKENS, tuning.LIBRARY_TOKENS))


def multiply_rows(device: torch.device) -> int:
    """Rows of x that the fused multiply takes at once."""
    return int(of_device(device).get(MULTIPLY_ROWS, tuning.MULTIPLY_ROWS))


def of_device(device: torch.device) -> dict[str, Any]:
    """Empty where nothing has been measured."""
    return _of_name(torch.cuda.get_device_name(device)) if device.type == "cuda" else {}


def keep(name: str, date: str, values: dict[str, int]) -> None:
    """Write what a device was found to be fastest with; what else is known of it stays."""
    known = json.loads(FILE.read_text())
    known[name] = {**known.get(name, {}), **values, "date": date}
    FILE.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")
    _of_name.cache_clear()


@lru_cache(maxsize=16)
def _of_name(name: str) -> dict[str, Any]:
    return json.loads(FILE.read_text()).get(name, {})  # type: ignore[no-any-return]
