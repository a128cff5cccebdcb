"""Tests of whether two attacks differ in success."""

import math

from scipy.special import bdtr


def two_proportion_z(
    num_success_1: int, num_clips_1: int, num_success_2: int, num_clips_2: int
) -> tuple[float, float]:
    """Tests whether the first of two success rates is the lower one, Appendix C.

    With rates p1 = k1/n1, p2 = k2/n2 and the pooled rate p = (k1 + k2)/(n1 + n2),

        z = (p1 - p2) / sqrt(p (1 - p) (1/n1 + 1/n2)).

    Null hypothesis p1 = p2, alternative p1 < p2. The p-value is one-sided. It is
    2 min(p_value, 1 - p_value) two-sided, and also if the order of the two was chosen
    after looking at the rates. The two sets of clips must be independent; for two
    attacks on the same clips use `mcnemar_exact`.

    Args:
        num_success_1: k1, clips on which the first attack succeeds.
        num_clips_1: n1, at least 1.
        num_success_2: k2, of the second attack.
        num_clips_2: n2, at least 1.

    Returns:
        z and the p-value in [0, 1]; 0 and 0.5 where both rates are 0, or both 1.

    Raises:
        ValueError: A number of clips is below 1, or a count is not in [0, n].

    Source: Abdoli et al., arXiv 1908.03173, Appendix C, where n1 = n2 = m.
    """
    for index, (num_success, num_clips) in enumerate(
        [(num_success_1, num_clips_1), (num_success_2, num_clips_2)], start=1
    ):
        if num_clips < 1:
            raise ValueError(f"num_clips_{index}: expected at least 1, got {num_clips}")
        if not 0 <= num_success <= num_clips:
            raise ValueError(
                f"num_success_{index}: expected 0 to {num_clips}, got {num_success}"
            )
    pooled = (num_success_1 + num_success_2) / (num_clips_1 + num_clips_2)
    variance = pooled * (1 - pooled) * (1 / num_clips_1 + 1 / num_clips_2)
    if not variance:
        return 0.0, 0.5
    difference = num_success_1 / num_clips_1 - num_success_2 / num_clips_2
    z = float(difference / math.sqrt(variance))
    return z, 0.5 * math.erfc(-z / math.sqrt(2.0))


def mcnemar_exact(only_first: int, only_second: int) -> float:
    """Tests whether two attacks differ in success on the same clips.

    Null hypothesis: a clip on which exactly one of them succeeds falls to either with
    probability 1/2, so `only_first` is binomial with n = only_first + only_second.
    The alternative is two-sided.

    Args:
        only_first: Clips on which the first attack succeeds and the second fails.
        only_second: Clips on which the second succeeds and the first fails.

    Returns:
        The exact p-value, in [0, 1]; 1 without any such clip.

    Raises:
        ValueError: A count is negative.

    Source: McNemar, Psychometrika 12, 1947, with the exact binomial distribution.
    """
    for name, count in [("only_first", only_first), ("only_second", only_second)]:
        if count < 0:
            raise ValueError(f"{name}: expected at least 0, got {count}")
    num_clips = only_first + only_second
    # Both tails; where the counts are equal, they are everything.
    return min(1.0, 2 * float(bdtr(min(only_first, only_second), num_clips, 0.5)))
