"""Sizes in words."""

import math


def format_bytes(count: float) -> str:
    """Binary units with three significant digits: 307200 -> "300 KiB"."""
    if not math.isfinite(count):
        return str(count)
    size, unit = float(count), "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if size < 1023.5 or unit == "TiB":
            break
        size /= 1024
    digits = 0 if size >= 99.95 else 1 if size >= 9.995 else 2
    number = f"{size:.{digits}f}"
    return f"{number.rstrip('0').rstrip('.') if digits else number} {unit}"
