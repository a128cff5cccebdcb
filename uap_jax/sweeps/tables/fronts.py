"""Fronts of a sweep's tables: success rate against level, by model and goal."""

import itertools
from collections.abc import Sequence
from typing import Any

from uap_jax.reporting import svg
from uap_jax.reporting.fronts import Points, snr_at_rate, sort_points, undominated
from uap_jax.sweeps.tables.formats import Table
from uap_jax.sweeps.tables.measures import CONTROLS
from uap_jax.text import is_number

# What the table of a front has for each perturbation.
MEASURES = ("train.asr", "test.asr", "test.snr_db", "test.snr_ac_db")


def fronts_of(
    table: Table, series: Sequence[str]
) -> dict[tuple[str, str], list[Points]]:
    """Returns the undominated points of each series, by model and goal.

    The table has "model", "target" and `MEASURES`; `series` are settings that tell
    lines apart.
    """
    rows = [
        row
        for row in table.rows
        if is_number(row["test.snr_ac_db"]) and is_number(row["test.asr"])
    ]
    keys = list(dict.fromkeys(tuple(row[key] for key in series) for row in rows))
    names = dict(zip(keys, series_names(keys), strict=True))
    fronts: dict[tuple[str, str], dict[str, list[tuple[float, ...]]]] = {}
    for row in rows:
        lines = fronts.setdefault((row["model"], row["target"]), {})
        points = lines.setdefault(names[tuple(row[key] for key in series)], [])
        controls = svg.as_floats([row[name] for name in CONTROLS["test.asr"]])
        points.append((row["test.snr_ac_db"], row["test.asr"], *controls))
    return {
        goal: [undominated(sort_points(name, points)) for name, points in lines.items()]
        for goal, lines in fronts.items()
    }


def levels_at(table: Table, rate: float, *, series: Sequence[str]) -> list[str]:
    """Returns a line of text for each model and goal: the SNR of each series there."""
    lines = []
    for (model, target), fronts in fronts_of(table, series).items():
        texts = []
        for points in fronts:
            snr_db = snr_at_rate(points, rate)
            level = "(all to one side of it)" if snr_db is None else f"{snr_db:.1f} dB"
            texts.append(f"{points.name} {level}")
        lines.append(
            f"{model}, {target}, mean-free SNR at a test ASR of {rate:g}: "
            + ", ".join(texts)
        )
    return lines


def series_names(keys: Sequence[tuple[Any, ...]]) -> list[str]:
    """Returns a name for each series, of the settings that differ."""
    differing = [len(set(values)) > 1 for values in zip(*keys, strict=True)]
    if not any(differing):
        differing = [True] * len(differing)
    return [" ".join(map(str, itertools.compress(key, differing))) for key in keys]
