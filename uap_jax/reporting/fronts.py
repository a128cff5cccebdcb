"""Success rate against level: what each method reaches, on the same axes."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from uap_jax.reporting import svg

_MARKERS = ("o", "s", "^", "D", "v", "P")
_DASHES = ("-", "--", "-.")


class Points(NamedTuple):
    """What a method reached, a value for each of its perturbations.

    Attributes:
        name: Of the method.
        snr_db: `[P]` mean SNR on test clips, in dB.
        asr: `[P]` test success rates, in [0, 1].
        control: `[P]` those of noise of the same RMS.
    """

    name: str
    snr_db: np.ndarray
    asr: np.ndarray
    control: np.ndarray


def points_of(
    name: str, results: Sequence[Mapping[str, Any]], *, measure: str = "snr_ac_db"
) -> Points:
    """Collects the points of runs: all of a front, or the one of another method.

    Args:
        name: Of the method.
        results: Each the content of a result.json.
        measure: The level, "snr_ac_db" or "snr_db".

    Returns:
        The points by rising level of noise; those without a level are left out.
    """
    judged = [
        entry
        for result in results
        for entry in result.get("front") or [result]
        if "test" in entry and entry["test"].get(measure) is not None
    ]
    rows = sorted(
        (e["test"][measure], e["test"]["asr"], e["control"]["asr"]) for e in judged
    )
    columns = np.array(rows, float).reshape(-1, 3)[::-1].T
    return Points(name, *columns)


def snr_at_rate(points: Points, asr: float) -> float | None:
    """Returns the SNR at which a curve crosses a success rate, by lines between points.

    Among several crossings the quietest counts. None where the points do not reach on
    both sides of the rate.
    """
    crossings = []
    order = np.argsort(points.asr)
    rates, levels = points.asr[order], points.snr_db[order]
    for index in range(len(rates) - 1):
        low, high = rates[index], rates[index + 1]
        if low <= asr <= high:
            ends = levels[index : index + 2]
            is_flat = high == low
            crossings.append(
                np.max(ends) if is_flat else np.interp(asr, [low, high], ends)
            )
    return float(max(crossings)) if crossings else None


def front_svg(series: Sequence[Points], *, level_label: str, title: str) -> str:
    """Draws test success rates along the level, a line for each method.

    Args:
        series: The methods.
        level_label: Of the level's axis.
        title: What the data are, for those who do not see the figure.

    Returns:
        An `<svg>` element; the noise of the same RMS is a dotted line.
    """
    from matplotlib.figure import Figure

    alt = f"{title}: test success rate along the level. " + "; ".join(
        _describe(points) for points in series if len(points.asr)
    )
    with svg.style(alt):
        figure = Figure(figsize=(6.2, 3.6), layout="constrained")
        axes = figure.add_subplot()
        for index, points in enumerate(series):
            color = svg.SERIES[index % len(svg.SERIES)]
            axes.plot(
                points.snr_db,
                100 * points.asr,
                label=points.name,
                color=color,
                marker=_MARKERS[index % len(_MARKERS)],
                linestyle=_DASHES[index % len(_DASHES)],
                linewidth=1.8,
                markersize=4.5,
            )
        noise = np.concatenate(
            [np.stack([points.snr_db, points.control]) for points in series], axis=1
        )
        noise = noise[:, np.argsort(noise[0])]
        axes.plot(
            noise[0],
            100 * noise[1],
            label="random noise",
            color=svg.INK,
            linestyle=":",
            linewidth=1.1,
        )
        axes.set_ylim(-2, 102)
        axes.set_xlabel(level_label)
        axes.set_ylabel("success on test clips (%)")
        axes.grid(True)
        axes.legend(frameon=False, labelcolor="linecolor")
        return svg.to_svg(figure, alt)


def _describe(points: Points) -> str:
    return (
        f"{points.name}: {points.asr[0]:.0%} at {points.snr_db[0]:.1f} dB to "
        f"{points.asr[-1]:.0%} at {points.snr_db[-1]:.1f} dB"
    )
