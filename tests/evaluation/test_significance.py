"""Both tests against closed forms, and the z test against the paper's Table 5."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from uap_jax.evaluation import mcnemar_exact, two_proportion_z
from uap_jax.sweeps.published import load_published

NUM_TEST_CLIPS = {"spchcmd": 158_537}
TABLE_5 = load_published("5").cells
COUNTS = [
    ((17, 50), (29, 50)),
    ((360, 874), (766, 874)),
    ((3, 10), (400, 874)),
    ((0, 40), (9, 60)),
    ((31, 31), (20, 25)),
]


def num_test_clips(cell):
    return NUM_TEST_CLIPS.get(cell["model"], 874)


@pytest.mark.parametrize("cell", TABLE_5, ids=str)
def test_table_5(cell):
    # The paper starts from rates of three digits and cuts z to three. 1000 m clips
    # have such rates as counts, and sqrt(1000) times the z of m clips.
    m = num_test_clips(cell)
    low, high = (round(1000 * cell[key]) * m for key in ("asr_low", "asr_high"))
    z, _ = two_proportion_z(low, 1000 * m, high, 1000 * m)
    assert math.trunc(z / math.sqrt(1000) * 1000) / 1000 == cell["z"]


@pytest.mark.parametrize("cell", TABLE_5, ids=str)
def test_table_5_from_whole_clips(cell):
    # A count of clips fits the untargeted rates, and to rounding the others.
    m = num_test_clips(cell)
    low, high = (round(m * cell[key]) for key in ("asr_low", "asr_high"))
    z, p_value = two_proportion_z(low, m, high, m)
    assert z == pytest.approx(cell["z"], abs=0.04)
    assert (p_value > 0.05) == (cell["model"] == "sincnet_vgg19" and not cell["target"])
    assert p_value < 0.057


@pytest.mark.parametrize(("first", "second"), COUNTS)
def test_square_is_pearsons_chi_square(first, second):
    z, p_value = two_proportion_z(*first, *second)
    table = [[k, n - k] for k, n in (first, second)]
    expected = stats.chi2_contingency(table, correction=False)
    assert z**2 == pytest.approx(expected.statistic, rel=1e-12)
    assert np.sign(z) == np.sign(first[0] / first[1] - second[0] / second[1])
    assert 2 * min(p_value, 1 - p_value) == pytest.approx(expected.pvalue, rel=1e-6)


@pytest.mark.parametrize(("first", "second"), COUNTS)
def test_other_side(first, second):
    z, p_value = two_proportion_z(*first, *second)
    other_z, other_p_value = two_proportion_z(*second, *first)
    assert other_z == -z
    assert other_p_value == pytest.approx(1 - p_value, abs=1e-15)


def test_level_of_the_normal():
    # p = 1/2 and n = 50 each, so that z is (k1 - k2)/50 / 0.1.
    z, p_value = two_proportion_z(21, 50, 29, 50)
    assert z == pytest.approx(-1.6)
    assert p_value == pytest.approx(0.0547993, abs=1e-7)


def test_far_tail_is_not_zero():
    z, p_value = two_proportion_z(132_220, 158_537, 138_720, 158_537)
    assert z < -32
    assert 0 < p_value < 1e-200


@pytest.mark.parametrize("counts", [(0, 5, 0, 9), (5, 5, 9, 9)])
def test_equal_extremes_say_nothing(counts):
    assert two_proportion_z(*counts) == (0.0, 0.5)


def test_level_is_kept():
    # Under the null hypothesis p falls below 0.05 in about 5% of all cases.
    n, rate = 200, 0.7
    probability = stats.binom.pmf(np.arange(n + 1), n, rate)
    rejected = sum(
        probability[k1] * probability[k2]
        for k1, k2 in itertools.product(range(100, 181), repeat=2)
        if two_proportion_z(k1, n, k2, n)[1] < 0.05
    )
    assert rejected == pytest.approx(0.05, abs=0.005)


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ((0, 0, 1, 2), "num_clips_1: expected at least 1, got 0"),
        ((1, 2, 0, -1), "num_clips_2: expected at least 1, got -1"),
        ((3, 2, 1, 2), "num_success_1: expected 0 to 2, got 3"),
        ((1, 2, -1, 2), "num_success_2: expected 0 to 2, got -1"),
    ],
)
def test_wrong_counts(counts, message):
    with pytest.raises(ValueError, match=message):
        two_proportion_z(*counts)


def binomial_p_value(first, second):
    """Twice the smaller tail of a fair coin, at most 1."""
    n = first + second
    tail = sum(math.comb(n, k) for k in range(min(first, second) + 1))
    return min(1.0, 2 * tail / 2**n)


@pytest.mark.parametrize(
    ("first", "second"), [(0, 1), (0, 9), (5, 15), (15, 5), (7, 7), (8, 7), (70, 41)]
)
def test_mcnemar_closed_form(first, second):
    expected = binomial_p_value(first, second)
    assert mcnemar_exact(first, second) == pytest.approx(expected, rel=1e-12)


def test_mcnemar_known_values():
    assert mcnemar_exact(0, 0) == 1.0
    assert mcnemar_exact(0, 6) == pytest.approx(2**-5)
    assert mcnemar_exact(40, 40) == pytest.approx(1.0)
    assert 0 < mcnemar_exact(4_000, 5_000) < 1e-20


@pytest.mark.parametrize(
    ("counts", "name"), [((-1, 2), "only_first"), ((2, -1), "only_second")]
)
def test_mcnemar_wrong_counts(counts, name):
    with pytest.raises(ValueError, match=f"{name}: expected at least 0, got -1"):
        mcnemar_exact(*counts)


def test_returns_plain_floats():
    result = two_proportion_z(np.int64(3), 10, np.int64(5), 10)
    assert all(type(value) is float for value in (*result, mcnemar_exact(1, 3)))
