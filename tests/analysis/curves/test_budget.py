import pytest

from analysis.curves.budget import format_bits, parse_budget


@pytest.mark.parametrize(
    ("text", "bits"),
    [
        ("300KiB", 300 * 1024 * 8),
        ("4GiB", 4 * 1024**3 * 8),
        ("2.5MB", 20_000_000),
        ("1000000", 1_000_000),
        ("1000000bits", 1_000_000),
        (" 1.5 kib ", 12288),
        ("7kB", 56_000),
        ("1e6 bits", 1_000_000),
    ],
)
def test_parse(text: str, bits: int) -> None:
    assert parse_budget(text) == bits


@pytest.mark.parametrize(
    "text", ["", "GiB", "4Gb", "4gb", "-1KiB", "0", "1e999", "nan", "3 apples"]
)
def test_bad_budgets_get_one_line(text: str) -> None:
    with pytest.raises(ValueError, match="budget") as error:
        parse_budget(text)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("bits", "text"),
    [
        (300 * 8192, "300 KiB"),
        (8 * 1024**2 * 1.25, "1.25 MiB"),
        (8 * 4 * 1024**3, "4 GiB"),
        (8 * 12, "12 B"),
        (8 * 1023.9 * 1024, "1 MiB"),
        (8 * 99.97 * 1024, "100 KiB"),
    ],
)
def test_format(bits: float, text: str) -> None:
    assert format_bits(bits) == text
