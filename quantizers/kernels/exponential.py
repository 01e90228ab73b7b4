"""exp(x) as loops over it compile to vectors, by Numba: 2^n e^r, Cephes' polynomial for e^r.

Numba keeps what it compiled by the caller's file alone: change this, and touch its callers.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np


# Its parts, since a loop that puts them together in place is no loop of vectors.
@numba.njit(inline="always")
def exponential(x: Any) -> Any:
    """(e^r in fp32, the bits of 2^n as int32) of an fp32 x <= 0; below 2^-126 cut.

    |r| <= ln 2 / 2. Viewed as fp32, the second times the first is exp(x) within 2 units of its last
    place.
    """
    x = np.float32(-87) if x < np.float32(-87) else x
    power = np.int32(x * np.float32(1.44269504) - np.float32(0.5))
    t = np.float32(power)
    r = x - t * np.float32(0.693359375) + t * np.float32(2.12194440e-4)
    p = np.float32(1.9875691500e-4)
    p = p * r + np.float32(1.3981999507e-3)
    p = p * r + np.float32(8.3334519073e-3)
    p = p * r + np.float32(4.1665795894e-2)
    p = p * r + np.float32(1.6666665459e-1)
    p = p * r + np.float32(5.0000001201e-1)
    return p * r * r + r + np.float32(1), (power + np.int32(127)) << np.int32(23)
