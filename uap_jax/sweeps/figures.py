"""Figures of a sweep: curves along a setting, with intervals."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from uap_jax.reporting import svg
from uap_jax.reporting.formats import is_number
from uap_jax.sweeps.table_formats import Table
from uap_jax.sweeps.tables import CONTROLS, MEASURES

# Series differ in more than colour.
_MARKERS = ("o", "s", "^", "D", "v", "P")
_DASHES = ("-", "--", "-.")
# Values this many times apart stand on a logarithmic axis.
_LOG_RATIO = 20
_MAX_TICKS = 9


class Curve(NamedTuple):
    """One measure along a setting, a line for each series."""

    label: str
    has_noise: bool  # thin dotted lines are those of random noise
    svg: str


class Curves(NamedTuple):
    """The curves of a table, and what tells the series apart in them."""

    legend: tuple[tuple[str, str], ...]  # name and `<svg>` of a piece of line
    curves: tuple[Curve, ...]


def draw_curves(
    table: Table,
    *,
    x: str,
    series: Sequence[str],
    measures: Sequence[str],
    title: str,
) -> Curves:
    """Draws each measure of a table as `tables.curve_table` makes it.

    Args:
        table: With columns for `series` and `x`, and for each measure its mean,
            ".low" and ".high".
        x: The setting along the curves.
        series: Settings that tell curves apart.
        measures: Names in `tables.MEASURES`.
        title: Of the table; makes texts for those who do not see differ.

    Returns:
        A figure for each measure of which a value is there, and the legend.
    """
    keys = [column.key for column in table.columns]
    columns = dict(zip(keys, table.columns, strict=True))
    lines: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in table.rows:
        values = dict(zip(keys, row, strict=True))
        lines.setdefault(tuple(values[key] for key in series), []).append(values)
    names = series_names(list(lines))
    places, ticks = _axis(
        [values[x] for members in lines.values() for values in members]
    )
    curves = [
        Curve(
            label=MEASURES[name].label,
            has_noise=name in CONTROLS,
            svg=_draw(
                dict(zip(names, lines.values(), strict=True)),
                x=x,
                measure=name,
                places=places,
                ticks=ticks,
                x_label=columns[x].label,
                title=title,
            ),
        )
        for name in measures
        if any(is_number(row[keys.index(name)]) for row in table.rows)
    ]
    if not curves:
        return Curves((), ())
    legend = [(name, _draw_swatch(index, name)) for index, name in enumerate(names)]
    return Curves(tuple(legend), tuple(curves))


def series_names(keys: Sequence[tuple[Any, ...]]) -> list[str]:
    """Returns a name for each series, of the settings that differ."""
    differing = [len(set(values)) > 1 for values in zip(*keys, strict=True)]
    if not any(differing):
        differing = [True] * len(differing)
    return [
        " ".join(
            str(value) for value, is_told in zip(key, differing, strict=True) if is_told
        )
        for key in keys
    ]


class _Ticks(NamedTuple):
    places: list[float] | None  # None: wherever they look well
    labels: list[str]
    is_log: bool


def _axis(values: Sequence[Any]) -> tuple[Mapping[Any, float], _Ticks]:
    """Returns where each value of the setting lies, and the ticks."""
    distinct = list(dict.fromkeys(values))
    if not all(is_number(value) for value in distinct):
        places = {value: float(index) for index, value in enumerate(distinct)}
        return places, _Ticks(list(places.values()), list(map(str, distinct)), False)
    distinct.sort()
    places = {value: float(value) for value in distinct}
    is_log = distinct[0] > 0 and distinct[-1] >= _LOG_RATIO * distinct[0]
    if len(distinct) > _MAX_TICKS and not is_log:
        return places, _Ticks(None, [], False)
    step = -(-len(distinct) // _MAX_TICKS)
    shown = distinct[::step]
    return places, _Ticks([places[v] for v in shown], [f"{v:g}" for v in shown], is_log)


def _draw(
    lines: Mapping[str, Sequence[Mapping[str, Any]]],
    *,
    x: str,
    measure: str,
    places: Mapping[Any, float],
    ticks: _Ticks,
    x_label: str,
    title: str,
) -> str:
    from matplotlib.figure import Figure

    label, form, _ = MEASURES[measure]
    is_rate = "asr" in measure or "accuracy" in measure
    alt = f"{title}: {label} along {x_label}. " + _describe(lines, x, measure, form)
    with svg.style(alt):
        figure = Figure(figsize=(4.4, 2.7), layout="constrained")
        axes = figure.add_subplot()
        for index, members in enumerate(lines.values()):
            ordered = sorted(members, key=lambda values: places[values[x]])
            at = np.array([places[values[x]] for values in ordered])
            mean, low, high = (
                _as_floats([values[f"{measure}{end}"] for values in ordered])
                for end in ("", ".low", ".high")
            )
            axes.errorbar(at, mean, [mean - low, high - mean], **_look(index))
            if control := CONTROLS.get(measure):
                noise = _as_floats([values[control] for values in ordered])
                color = svg.SERIES[index % len(svg.SERIES)]
                axes.plot(at, noise, color=color, linestyle=":", linewidth=1.1)
        if ticks.is_log:
            axes.set_xscale("log")
            axes.minorticks_off()
        if ticks.places is not None:
            axes.set_xticks(ticks.places, ticks.labels)
        if is_rate:
            axes.set_ylim(-0.03, 1.03)
        axes.set_xlabel(x_label)
        axes.grid(True)
        return svg.to_svg(figure, alt)


def _draw_swatch(index: int, name: str) -> str:
    from matplotlib.figure import Figure

    alt = f"line of {name}"
    with svg.style(alt):
        figure = Figure(figsize=(0.5, 0.2))
        axes = figure.add_axes((0, 0, 1, 1))
        axes.plot([0, 1, 2], [0, 0, 0], markevery=[1], **_look(index, capsize=False))
        axes.set_axis_off()
        return svg.to_svg(figure, alt)


def _look(index: int, *, capsize: bool = True) -> dict[str, Any]:
    look = {
        "color": svg.SERIES[index % len(svg.SERIES)],
        "marker": _MARKERS[index % len(_MARKERS)],
        "linestyle": _DASHES[index % len(_DASHES)],
        "linewidth": 1.8,
        "markersize": 4.5,
    }
    return look | {"capsize": 3, "elinewidth": 1.0} if capsize else look


def _describe(
    lines: Mapping[str, Sequence[Mapping[str, Any]]], x: str, measure: str, form: str
) -> str:
    """Says where each series begins and ends."""
    parts = []
    for name, members in lines.items():
        there = [values for values in members if is_number(values[measure])]
        if there:
            ends = [there[0], there[-1]][: len(there)]
            parts.append(
                f"{name}: "
                + " to ".join(f"{v[measure]:{form}} at {v[x]}" for v in ends)
            )
    return "; ".join(parts)


def _as_floats(values: Sequence[Any]) -> np.ndarray:
    return np.array([value if is_number(value) else np.nan for value in values], float)
