"""Success rate against level: what each method reaches, on the same axes."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from uap_jax.reporting import svg

LEVEL_LABEL = "mean-free SNR (dB)"


class Points(NamedTuple):
    """What a method reached, one value per perturbation.

    Attributes:
        name: Name of the method.
        snr_db: `[P]` mean SNR on test clips, in dB.
        asr: `[P]` test success rates, in [0, 1].
        control: `[P]` success rates of white noise of the same RMS.
        same_spectrum: `[P]` those of noise of the same spectrum.

    A control that was not measured is NaN.
    """

    name: str
    snr_db: np.ndarray
    asr: np.ndarray
    control: np.ndarray
    same_spectrum: np.ndarray


def points_of(
    name: str, results: Sequence[Mapping[str, Any]], *, measure: str = "snr_ac_db"
) -> Points:
    """Collects the points of runs: all of a front, or the single one of a run.

    Args:
        name: Name of the method.
        results: The contents of result.json files.
        measure: The level, "snr_ac_db" or "snr_db".

    Returns:
        The points from quiet to loud; those without a level are left out.
    """
    evaluated = [
        entry
        for result in results
        for entry in result.get("front") or [result]
        if "test" in entry and entry["test"].get(measure) is not None
    ]
    return sort_points(
        name,
        [
            (
                entry["test"][measure],
                entry["test"]["asr"],
                entry["control"]["asr"],
                # Earlier results have no second control.
                entry["control"].get("same_spectrum", {}).get("asr", np.nan),
            )
            for entry in evaluated
        ],
    )


def sort_points(name: str, points: Sequence[tuple[float, ...]]) -> Points:
    """Returns points, each in the order of the fields of `Points`, quietest first."""
    columns = np.array(sorted(points), float).reshape(-1, 4)[::-1].T
    return Points(name, *columns)


def snr_at_rate(points: Points, asr: float) -> float | None:
    """Returns the SNR at which a curve crosses a success rate, by lines between points.

    Of several crossings the quietest counts. None unless there are points on both
    sides of the rate.
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


def undominated(points: Points) -> Points:
    """Returns the points that no other one beats in both level and success rate."""
    rates, levels = points.asr[:, None], points.snr_db[:, None]
    no_worse = (rates <= rates.T) & (levels <= levels.T)
    better = (rates < rates.T) | (levels < levels.T)
    kept = ~np.any(no_worse & better, axis=1)
    return Points(points.name, *(column[kept] for column in points[1:]))


def draw_front(
    series: Sequence[Points], *, title: str, level_label: str = LEVEL_LABEL
) -> svg.Drawing:
    """Draws test success rates along the level, a line for each method.

    Args:
        series: The methods.
        title: Description of the data, for the text alternative.
        level_label: Label of the level's axis.

    Returns:
        The figure; controls that were measured are thin lines without markers.
    """
    alt = f"{title}: test success rate along the level. " + "; ".join(
        f"{points.name}: {points.asr[0]:.0%} at {points.snr_db[0]:.1f} dB to "
        f"{points.asr[-1]:.0%} at {points.snr_db[-1]:.1f} dB"
        for points in series
        if len(points.asr)
    )
    with svg.style():
        figure = Figure(figsize=(6.2, 3.6), layout="constrained")
        axes = figure.add_subplot()
        for index, points in enumerate(series):
            look = svg.series_look(index)
            axes.plot(points.snr_db, 100 * points.asr, label=points.name, **look)
        levels = np.concatenate([points.snr_db for points in series])
        for label, columns, dashes in zip(
            ("white noise", "noise of the same spectrum"),
            ([p.control for p in series], [p.same_spectrum for p in series]),
            svg.CONTROL_DASHES,
            strict=True,
        ):
            rates = np.concatenate(columns)
            # A point that was not measured does not interrupt the line.
            order = np.argsort(levels)
            order = order[np.isfinite(rates[order])]
            if len(order):
                look = {"color": svg.INK, "linestyle": dashes, "linewidth": 1.1}
                axes.plot(levels[order], 100 * rates[order], label=label, **look)
        axes.set_ylim(-2, 102)
        axes.set_xlabel(level_label)
        axes.set_ylabel("success on test clips (%)")
        axes.grid(True)
        axes.legend(frameon=False, labelcolor="linecolor")
        return svg.draw(figure, alt)
