import pytest
from hypothesis import given
from hypothesis import strategies as st

from faucetd.sizes import format_size, parse_size


@pytest.mark.parametrize(
    ("text", "nbytes"),
    [
        ("0", 0),
        ("1_000_000", 1_000_000),
        ("512MB", 512_000_000),
        ("512 mb", 512_000_000),
        ("2GiB", 2**31),
        ("1.5KiB", 1536),
        ("0.1kB", 100),
        (" 3 TiB ", 3 * 2**40),
    ],
)
def test_a_size_is_read_with_its_unit(text: str, nbytes: int) -> None:
    assert parse_size(text) == nbytes


@pytest.mark.parametrize("text", ["", "GiB", "2Gi", "2G", "-1", "1e9", "1.GiB", "1 2", "٣", "half"])
def test_what_is_not_a_size_is_refused_with_the_units(text: str) -> None:
    with pytest.raises(ValueError, match="such as 2GiB"):
        parse_size(text)


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.00 KiB"),
        (2**30, "1.00 GiB"),
        (10 * 2**20 - 1, "10.0 MiB"),
        (2**30 - 1, "1.00 GiB"),
        (2**50, "1024 TiB"),
    ],
)
def test_a_size_is_written_in_the_largest_unit_that_fits(nbytes: int, text: str) -> None:
    assert format_size(nbytes) == text


@given(st.integers(0, 2**50))
def test_a_written_size_is_within_half_a_percent_of_what_it_says(nbytes: int) -> None:
    # Half of the last of three digits, and what is cut off to a whole byte.
    assert abs(parse_size(format_size(nbytes)) - nbytes) <= 0.005 * nbytes + 1
