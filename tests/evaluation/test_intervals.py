"""Wilson's interval against its closed formula."""

import math

import pytest

from uap_jax.evaluation import wilson_interval


def closed_formula(k, n, z):
    centre = (k + z**2 / 2) / (n + z**2)
    half = z / (n + z**2) * math.sqrt(k * (n - k) / n + z**2 / 4)
    return centre - half, centre + half


@pytest.mark.parametrize(
    ("level", "z"),
    [(0.95, 1.959963984540054), (0.99, 2.5758293035489004), (0.5, 0.6744897501960817)],
)
@pytest.mark.parametrize(
    ("k", "n"), [(0, 1), (1, 1), (0, 50), (50, 50), (17, 50), (786, 874)]
)
def test_closed_formula(k, n, level, z):
    interval = wilson_interval(k, n, confidence_level=level)
    assert interval == pytest.approx(closed_formula(k, n, z), abs=1e-12)
    assert all(type(end) is float for end in interval)
    assert 0 <= interval[0] <= k / n <= interval[1] <= 1


def test_default_level_is_95():
    assert wilson_interval(3, 10) == wilson_interval(3, 10, confidence_level=0.95)
    # Newcombe (1998), table I: 81 of 263.
    assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)


def test_no_trials():
    assert wilson_interval(0, 0) == (0.0, 1.0)
