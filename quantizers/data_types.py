"""The data types weights are rounded to, by name, and how a float's bits are split. Torch-free."""

from __future__ import annotations

DATA_TYPES = ("int", "float", "dynamic", "quantile")
# The same with values rounded to 1/127: other types, whose products with integers are of integers.
BYTE_TYPES = ("float-int8", "dynamic-int8", "quantile-int8")


def base_type(data_type: str | None) -> str | None:
    """The data type whose values one of BYTE_TYPES rounds; any other itself."""
    return None if data_type is None else data_type.removesuffix("-int8")


def default_exponent_bits(bits: float) -> int:
    """Exponent bits of a k-bit float: at least half the bits, except at 5 bit (paper, app. C.4)."""
    return {2: 1, 3: 2, 4: 2, 5: 2, 6: 3}.get(int(bits), 4)


def check_data_type(data_type: str | None, bits: int) -> None:
    """Raises ValueError for one that is not known, or has no codes of so many bits."""
    if data_type is not None and data_type not in (*DATA_TYPES, *BYTE_TYPES):
        known = ", ".join((*DATA_TYPES, *BYTE_TYPES))
        raise ValueError(f"data_type: {data_type!r} is not one of {known}")
    if data_type in BYTE_TYPES and bits > 8:
        raise ValueError(f"data_type: {data_type} takes 2 to 8 bits, not {bits}")
    if data_type is None and bits < 16:
        raise ValueError(f"data_type: missing at {bits} bit; choose one of {', '.join(DATA_TYPES)}")


def exponent_bits_of(data_type: str | None, bits: float, given: int | None) -> int | None:
    """Those of a float, by default as its width has them; None for other types.

    Raises ValueError for a split that the width does not have.
    """
    if base_type(data_type) != "float":
        if given is not None:
            raise ValueError(
                f"exponent_bits: only the float data type has them, not {data_type!r}; remove it"
            )
        return None
    if given is None:
        return default_exponent_bits(bits)
    if not isinstance(given, int) or isinstance(given, bool) or not 1 <= given <= bits - 1:
        raise ValueError(
            f"exponent_bits: {given!r} does not fit a {bits}-bit float, which takes 1 to {bits - 1}"
        )
    return given
