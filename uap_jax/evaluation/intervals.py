"""Intervals for success rates."""

from scipy import stats


def wilson_interval(
    num_successes: int, num_trials: int, *, confidence_level: float = 0.95
) -> tuple[float, float]:
    """Returns Wilson's score interval of a proportion.

    Args:
        num_successes: k.
        num_trials: n; for n = 0 the interval is all of [0, 1].
        confidence_level: In (0, 1).

    Returns:
        Low and high end, in [0, 1].
    """
    if not num_trials:
        return 0.0, 1.0
    interval = stats.binomtest(num_successes, num_trials).proportion_ci(
        confidence_level, method="wilson"
    )
    return float(interval.low), float(interval.high)
