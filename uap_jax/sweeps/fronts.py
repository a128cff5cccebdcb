"""Success rate against level: what each method reaches, on the same axes."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from uap_jax.reporting import svg
from uap_jax.reporting.formats import is_number
from uap_jax.sweeps import figures
from uap_jax.sweeps.table_formats import Table

# What the table of a front has for each perturbation: the level, the rate, its noise.
MEASURES = ("train.asr", "test.asr", "test.snr_db", "test.snr_ac_db")
_LEVEL, _RATE, _NOISE = "test.snr_ac_db", "test.asr", "control.asr"
_LEVEL_LABEL = "SNR without the resting level (dB)"

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


def undominated(points: Points) -> Points:
    """Returns the points that no other is both quieter and more successful than."""
    rates, levels = points.asr[:, None], points.snr_db[:, None]
    no_worse = (rates <= rates.T) & (levels <= levels.T)
    better = (rates < rates.T) | (levels < levels.T)
    kept = ~np.any(no_worse & better, axis=1)
    columns = (column[kept] for column in (points.snr_db, points.asr, points.control))
    return Points(points.name, *columns)


def draw_fronts(table: Table, *, series: Sequence[str], title: str) -> figures.Curves:
    """Draws a figure for each model and goal of a table, a line for each series.

    Args:
        table: A row for each perturbation, with "model", "target", the series and
            `MEASURES`.
        series: Settings that tell lines apart.
        title: Of the table.

    Returns:
        The figures; a line has its undominated points.
    """
    fronts = _fronts_of(table, series)
    models = {model for model, _ in fronts}
    curves = []
    for (model, target), lines in fronts.items():
        goal = target if target == "untargeted" else f'"{target}"'
        label = f"{model}, {goal}" if len(models) > 1 else goal
        drawn = front_svg(
            lines, level_label=_LEVEL_LABEL, title=f"{title}, {model}, {goal}"
        )
        curves.append(figures.Curve(label=label, has_noise=True, svg=drawn))
    return figures.Curves((), tuple(curves))


def levels_at(table: Table, rate: float, *, series: Sequence[str]) -> list[str]:
    """Returns a line of text for each model and goal: the SNR of each series there."""
    lines = []
    for (model, target), fronts in _fronts_of(table, series).items():
        found = [(points.name, snr_at_rate(points, rate)) for points in fronts]
        texts = [
            f"{name} {'(all to one side of it)' if snr is None else f'{snr:.1f} dB'}"
            for name, snr in found
        ]
        lines.append(
            f"{model}, {target}, mean-free SNR at a test ASR of {rate:g}: "
            + ", ".join(texts)
        )
    return lines


def _fronts_of(
    table: Table, series: Sequence[str]
) -> dict[tuple[str, str], list[Points]]:
    """Returns the lines of each model and goal that have a point."""
    keys = [column.key for column in table.columns]
    rows = [dict(zip(keys, row, strict=True)) for row in table.rows]
    rows = [row for row in rows if all(is_number(row[k]) for k in (_LEVEL, _RATE))]
    names = list(dict.fromkeys(tuple(row[key] for key in series) for row in rows))
    labels = dict(zip(names, figures.series_names(names), strict=True))
    grouped: dict[tuple[str, str], dict[str, list[tuple[float, ...]]]] = {}
    for row in rows:
        lines = grouped.setdefault((row["model"], row["target"]), {})
        label = labels[tuple(row[key] for key in series)]
        noise = row[_NOISE] if is_number(row[_NOISE]) else np.nan
        lines.setdefault(label, []).append((row[_LEVEL], row[_RATE], noise))
    return {
        key: [
            undominated(Points(name, *np.array(sorted(points)[::-1], float).T))
            for name, points in lines.items()
        ]
        for key, lines in grouped.items()
    }


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
        # A point whose noise was not measured does not cut the line.
        noise = noise[:, np.isfinite(noise[1])]
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
