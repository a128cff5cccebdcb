"""Figures of a sweep: curves along a setting, and success rate against level."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from uap_jax.reporting import svg
from uap_jax.reporting.fronts import draw_front
from uap_jax.sweeps.tables.formats import Table
from uap_jax.sweeps.tables.fronts import fronts_of, series_names
from uap_jax.sweeps.tables.measures import CONTROLS, MEASURES
from uap_jax.text import is_number

# Values this many times apart stand on a logarithmic axis.
_LOG_RATIO = 20
_MAX_TICKS = 9


class Curve(NamedTuple):
    """One figure; thin broken lines without markers are those of controls."""

    label: str
    has_controls: bool
    drawing: svg.Drawing


class Curves(NamedTuple):
    """The figures of a table, and what tells the series apart in all of them."""

    legend: tuple[tuple[str, svg.Drawing], ...]  # name and a piece of the line
    curves: tuple[Curve, ...]


def draw_curves(
    table: Table, *, x: str, series: Sequence[str], measures: Sequence[str], title: str
) -> Curves:
    """Draws each measure that has a value in a table of `kinds.curve_table`.

    `title`, of the table, is for the text alternatives; the rest as in `curve_table`.
    """
    grouped: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for row in table.rows:
        grouped.setdefault(tuple(row[key] for key in series), []).append(row)
    lines = dict(zip(series_names(list(grouped)), grouped.values(), strict=True))
    (x_label,) = [column.label for column in table.columns if column.key == x]
    curves = []
    for name in measures:
        if any(is_number(row[name]) for row in table.rows):
            drawing = _draw_measure(lines, name, x=x, x_label=x_label, title=title)
            curves.append(Curve(MEASURES[name].label, name in CONTROLS, drawing))
    legend = [(name, _draw_swatch(index, name)) for index, name in enumerate(lines)]
    return Curves(tuple(legend) if curves else (), tuple(curves))


def draw_fronts(table: Table, *, series: Sequence[str], title: str) -> Curves:
    """Draws a figure for each model and goal of a table."""
    fronts = fronts_of(table, series)
    models = {model for model, _ in fronts}
    curves = []
    for (model, target), lines in fronts.items():
        goal = target if target == "untargeted" else f'"{target}"'
        label = f"{model}, {goal}" if len(models) > 1 else goal
        drawing = draw_front(lines, title=f"{title}, {model}, {goal}")
        curves.append(Curve(label, True, drawing))
    return Curves((), tuple(curves))


def _draw_measure(
    lines: Mapping[str, Sequence[Mapping[str, Any]]],
    measure: str,
    *,
    x: str,
    x_label: str,
    title: str,
) -> svg.Drawing:
    label, form, _ = MEASURES[measure]
    alt = f"{title}: {label} along {x_label}. " + _describe(lines, x, measure, form)
    with svg.style():
        figure = Figure(figsize=(4.4, 2.7), layout="constrained")
        axes = figure.add_subplot()
        places = _set_axis(axes, [row[x] for rows in lines.values() for row in rows])
        for index, rows in enumerate(lines.values()):
            ordered = sorted(rows, key=lambda row: places[row[x]])
            at = [places[row[x]] for row in ordered]
            mean, low, high = (
                svg.as_floats([row[f"{measure}{end}"] for row in ordered])
                for end in ("", ".low", ".high")
            )
            look, bars = svg.series_look(index), {"capsize": 3, "elinewidth": 1.0}
            axes.errorbar(at, mean, [mean - low, high - mean], **look, **bars)
            thin = {"color": look["color"], "linewidth": 1.1}
            for control, dashes in zip(
                CONTROLS.get(measure, ()), svg.CONTROL_DASHES, strict=False
            ):
                rates = svg.as_floats([row[control] for row in ordered])
                if np.isfinite(rates).any():
                    axes.plot(at, rates, linestyle=dashes, **thin)
        if form == ".3f":  # a rate
            axes.set_ylim(-0.03, 1.03)
        axes.set_xlabel(x_label)
        axes.grid(True)
        return svg.draw(figure, alt)


def _set_axis(axes: Axes, values: Sequence[Any]) -> dict[Any, float]:
    """Sets the scale and ticks of a setting; returns where its values lie."""
    distinct = list(dict.fromkeys(values))
    if not all(is_number(value) for value in distinct):
        axes.set_xticks(range(len(distinct)), list(map(str, distinct)))
        return {value: float(index) for index, value in enumerate(distinct)}
    distinct.sort()
    is_log = distinct[0] > 0 and distinct[-1] >= _LOG_RATIO * distinct[0]
    if is_log:
        axes.set_xscale("log")
        axes.minorticks_off()
    if is_log or len(distinct) <= _MAX_TICKS:
        shown = distinct[:: -(-len(distinct) // _MAX_TICKS)]
        axes.set_xticks(shown, [f"{value:g}" for value in shown])
    return {value: float(value) for value in distinct}


def _draw_swatch(index: int, name: str) -> svg.Drawing:
    with svg.style():
        figure = Figure(figsize=(0.5, 0.2))
        axes = figure.add_axes((0, 0, 1, 1))
        axes.plot([0, 1, 2], [0, 0, 0], markevery=[1], **svg.series_look(index))
        axes.set_axis_off()
        return svg.draw(figure, f"line of {name}")


def _describe(
    lines: Mapping[str, Sequence[Mapping[str, Any]]], x: str, measure: str, form: str
) -> str:
    """Says where each series begins and ends."""
    parts = []
    for name, rows in lines.items():
        measured = [row for row in rows if is_number(row[measure])]
        if measured:
            ends = [measured[0], measured[-1]][: len(measured)]
            texts = [f"{row[measure]:{form}} at {row[x]}" for row in ends]
            parts.append(f"{name}: {' to '.join(texts)}")
    return "; ".join(parts)
