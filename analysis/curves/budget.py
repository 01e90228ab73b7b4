"""Memory budgets as people write them ("300KiB", "4GiB") and bits, both ways."""

import math
import re

from quantizers.units import format_bytes

_BYTES = {"B": 1, "TB": 10**12, "GB": 10**9, "MB": 10**6, "KB": 10**3, "kB": 10**3}
_BYTES |= {f"{p}iB": 1024**i for i, p in enumerate("KMGT", start=1)}
_UNITS = {"": 1, "bit": 1, "bits": 1} | {unit: 8 * n for unit, n in _BYTES.items()}
# Lower case is safe only where it cannot be read as bits ("gib" is clear, "gb" is not).
_UNITS |= {f"{p}ib": 8 * 1024**i for i, p in enumerate("kmgt", start=1)}


def parse_budget(text: str) -> int:
    """Bits of a budget such as "300KiB", "4GiB", "2.5MB", "1000000" or "1000000bits".

    A plain number is bits; KiB/MiB/GiB/TiB are powers of 1024 bytes, KB/MB/GB/TB powers of 1000.
    Raises ValueError (one line) for anything else, including "4Gb", which could mean bits.
    """
    match = re.fullmatch(r"\s*(\d+\.?\d*(?:[eE][+-]?\d+)?|\.\d+)\s*([A-Za-z]*)\s*", text)
    if not match or match[2] not in _UNITS:
        raise ValueError(
            f"budget {text!r} is not understood: write a number and bits, KB, MB, GB, KiB, MiB or "
            "GiB, for example 300KiB or 4GiB"
        )
    bits = float(match[1]) * _UNITS[match[2]]
    if not math.isfinite(bits) or bits < 1:
        raise ValueError(f"budget {text!r} must be at least one bit and finite")
    return round(bits)


def format_bits(bits: float) -> str:
    """`bits` in binary byte units with three significant digits: 2457600 -> "300 KiB"."""
    return format_bytes(bits / 8)
