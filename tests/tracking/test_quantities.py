import pytest

from jpllm.tracking import quantities


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (9_994, "9,994"),
        (9_996, "10.0 k"),
        (123_456, "123 k"),
        (999_499, "999 k"),
        (999_500, "1.00 M"),
        (3_307_200, "3.31 M"),
        (778_263_552, "778 M"),
        (2.04e12, "2.04 T"),
    ],
)
def test_count(value, text):
    assert quantities.count(value) == text


@pytest.mark.parametrize(
    ("hours", "text"),
    [
        (0.0, "0 s"),
        (48 / 3600, "48 s"),
        (0.05, "3.0 min"),
        (0.99, "59.4 min"),
        (1, "1.0 h"),
        (21.5, "21.5 h"),
        (76.8, "3.2 days"),
    ],
)
def test_duration(hours, text):
    assert quantities.duration(hours) == text


@pytest.mark.parametrize(
    ("value", "text"), [(512, "512 bytes"), (2048, "2.00 KiB"), (7 << 20, "7.00 MiB"), (6.15 * (1 << 30), "6.15 GiB")]
)
def test_byte_size(value, text):
    assert quantities.byte_size(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.012345, "0.0123"), (0.9, "0.9"), (0.999, "1.00"), (9.996, "10.0"), (12.34, "12.3"), (99.96, "100")],
)
def test_three_digits(value, text):
    assert quantities.three_digits(value) == text


def test_shares_and_losses():
    assert quantities.per_cent(0.3617) == "36.2 %"
    assert quantities.four_decimals(0.39206) == "0.3921"
    assert quantities.four_decimals(12345.6) == "12,346"
