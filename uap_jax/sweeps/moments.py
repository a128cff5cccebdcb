"""Figures of sounds at any moment: along the offset, and against level."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from uap_jax.reporting import svg
from uap_jax.reporting.fronts import LEVEL_LABEL
from uap_jax.sweeps.tables.channels import ALONG, AT_ANY_MOMENT, MAIN, OFFSETS
from uap_jax.sweeps.tables.formats import Table
from uap_jax.sweeps.tables.fronts import series_names
from uap_jax.sweeps.trials import WITH_THE_CLIP
from uap_jax.text import is_number

_Lines = Mapping[str, Sequence[Mapping[str, Any]]]
_RATE, _DECILE = "channels.moments.mean", "channels.moments.worst_decile"
_LEVEL = "test.snr_ac_db"


def draw_moments(
    table: Table, *, series: Sequence[str], title: str
) -> Iterator[tuple[str, svg.Drawing]]:
    """Yields two figures with their labels for each model and goal of a table.

    `table` is of `channels.moment_table`, `series` as there.
    """
    goals: dict[tuple[Any, Any], dict[Any, list[Mapping[str, Any]]]] = {}
    for row in table.rows:
        lines = goals.setdefault((row["model"], row["goal"]), {})
        lines.setdefault(tuple(str(row[key]) for key in series), []).append(row)
    heading = ", ".join(key.replace("_", " ") for key in series)
    for (model, goal), by_key in goals.items():
        lines = dict(zip(series_names(list(by_key)), by_key.values(), strict=True))
        where = f"{model}, {goal}"
        alt = f"{title}, {where}"
        if any(row[MAIN] for rows in lines.values() for row in rows):
            yield f"{where}: along the offset", _draw_along(lines, alt, heading)
            yield f"{where}: at any moment", _draw_levels(lines, alt, heading)


def _draw_along(lines: _Lines, alt: str, heading: str) -> svg.Drawing:
    said = []
    with svg.style():
        figure, axes = _axes()
        for index, (name, rows) in enumerate(lines.items()):
            for main in (row[MAIN] for row in rows if row[MAIN]):
                look = svg.series_look(index) | {"marker": "", "linewidth": 1.3}
                at, rates = f"{main[_LEVEL]:.1f} dB", main[ALONG]
                offsets_ms = 1000 * main[OFFSETS]
                axes.plot(offsets_ms, 100 * rates, label=f"{name}, {at}", **look)
                _draw_controls(axes, offsets_ms, [main] * len(offsets_ms), look)
                said.append(
                    f"{name} at {at}: {np.mean(rates):.0%} on average, "
                    f"{np.min(rates):.0%} to {np.max(rates):.0%}"
                )
        axes.set_xlabel("offset of the looped sound (ms)")
        _add_legends(axes, heading)
        return svg.draw(figure, f"{alt}: success along the offset. " + "; ".join(said))


def _draw_levels(lines: _Lines, alt: str, heading: str) -> svg.Drawing:
    said = []
    with svg.style():
        figure, axes = _axes()
        for index, (name, rows) in enumerate(lines.items()):
            measured = [row for row in rows if is_number(row[_LEVEL])]
            if not measured:
                continue
            ordered = sorted(measured, key=lambda row: row[_LEVEL])
            snr_db, mean, decile, starting = (
                svg.as_floats([row[key] for row in ordered])
                for key in (_LEVEL, _RATE, _DECILE, "test.asr")
            )
            look = svg.series_look(index)
            axes.plot(snr_db, 100 * mean, label=f"{name}: at any moment", **look)
            shade = {"color": look["color"], "alpha": 0.15, "linewidth": 0}
            axes.fill_between(snr_db, 100 * decile, 100 * mean, **shade)
            if any(row.get("channel") == WITH_THE_CLIP for row in rows):
                plain = look | {"linestyle": (0, (1, 1)), "markerfacecolor": "white"}
                label = f"{name}: when it does"
                axes.plot(snr_db, 100 * starting, label=label, **plain)
            _draw_controls(axes, snr_db, ordered, look)
            said.append(
                f"{name}: {mean[0]:.0%} at {snr_db[0]:.1f} dB to {mean[-1]:.0%} at "
                f"{snr_db[-1]:.1f} dB"
            )
        axes.set_xlabel(LEVEL_LABEL)
        _add_legends(axes, heading)
        alt = f"{alt}: success at any moment against level. "
        return svg.draw(figure, alt + "; ".join(said))


def _axes() -> tuple[Figure, Axes]:
    figure = Figure(figsize=(5.2, 3.6), layout="constrained")
    axes = figure.add_subplot()
    axes.set_ylim(-2, 102)
    axes.set_ylabel("success on test clips (%)")
    axes.grid(True)
    return figure, axes


def _draw_controls(
    axes: Axes,
    at: np.ndarray,
    rows: Sequence[Mapping[str, Any]],
    look: Mapping[str, Any],
) -> None:
    for path, dashes in zip(AT_ANY_MOMENT, svg.CONTROL_DASHES, strict=True):
        rates = svg.as_floats([row[path] for row in rows])
        if np.isfinite(rates).any():
            thin = {"color": look["color"], "linestyle": dashes, "linewidth": 1.1}
            axes.plot(at, 100 * rates, **thin)


def _add_legends(axes: Axes, heading: str) -> None:
    """Adds a legend of the lines; thin ones are of noises."""
    handles, labels = axes.get_legend_handles_labels()
    names = ("white noise", "noise of the same spectrum")
    for label, dashes in zip(names, svg.CONTROL_DASHES, strict=True):
        handles += axes.plot([], [], color=svg.INK, linestyle=dashes, linewidth=1.1)
        labels.append(label)
    axes.figure.legend(
        handles,
        labels,
        title=heading,
        frameon=False,
        loc="outside lower center",
        ncols=2,
    )
