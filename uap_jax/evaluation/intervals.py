"""Intervals for success rates."""

import math
from statistics import NormalDist


def wilson_interval(
    num_successes: int, num_trials: int, *, confidence_level: float = 0.95
) -> tuple[float, float]:
    """Returns Wilson's score interval of a proportion.

    (p + z^2 / 2n -+ z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n),  p = k / n

    Args:
        num_successes: k.
        num_trials: n; with none the interval is the whole of [0, 1].
        confidence_level: In (0, 1).

    Returns:
        Low and high end, in [0, 1].
    """
    if not num_trials:
        return 0.0, 1.0
    z = NormalDist().inv_cdf(0.5 + confidence_level / 2)
    share = num_successes / num_trials
    middle = share + z**2 / (2 * num_trials)
    variance = share * (1 - share) / num_trials + (z / (2 * num_trials)) ** 2
    width, scale = z * math.sqrt(variance), 1 + z**2 / num_trials
    # Rounding leaves 0 and 1 by a bit where they are the ends.
    low = (middle - width) / scale if num_successes else 0.0
    high = (middle + width) / scale if num_successes < num_trials else 1.0
    return low, high
