"""Intervals for success rates."""

import math

# Not scipy.stats, whose import takes a second.
from scipy.special import ndtri


def wilson_interval(
    num_successes: int, num_trials: int, *, confidence_level: float = 0.95
) -> tuple[float, float]:
    """Returns Wilson's score interval of a proportion.

        (k + z^2/2 -+ z sqrt(k (n - k) / n + z^2/4)) / (n + z^2),

    with z the quantile of the normal distribution at (1 + confidence_level) / 2.

    Args:
        num_successes: k.
        num_trials: n; for n = 0 the interval is all of [0, 1].
        confidence_level: In (0, 1).

    Returns:
        Low and high end, in [0, 1].
    """
    if not num_trials:
        return 0.0, 1.0
    z = float(ndtri(0.5 + 0.5 * confidence_level))
    num_failures = num_trials - num_successes
    centre = num_successes + z**2 / 2
    half = z * math.sqrt(num_successes * num_failures / num_trials + z**2 / 4)
    # Without successes, or failures, an end is exact but for rounding.
    low = (centre - half) / (num_trials + z**2) if num_successes else 0.0
    high = (centre + half) / (num_trials + z**2) if num_failures else 1.0
    return low, high
