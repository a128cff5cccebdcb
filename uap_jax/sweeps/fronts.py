"""Success rate against level: the points that methods reach."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from uap_jax.reporting.formats import is_number
from uap_jax.sweeps.formats import Table

# What the table of a front has for each perturbation.
MEASURES = ("train.asr", "test.asr", "test.snr_db", "test.snr_ac_db")


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
    """Collects the points of runs: all of a front, or the single one of other methods.

    Args:
        name: Of the method.
        results: The content of each result.json.
        measure: The level, "snr_ac_db" or "snr_db".

    Returns:
        The points from quiet to loud; those without a level are left out.
    """
    entries = [
        entry
        for result in results
        for entry in result.get("front") or [result]
        if "test" in entry and entry["test"].get(measure) is not None
    ]
    return _sorted(
        name,
        [(e["test"][measure], e["test"]["asr"], e["control"]["asr"]) for e in entries],
    )


def snr_at_rate(points: Points, asr: float) -> float | None:
    """Returns the SNR at which a curve crosses a success rate, by lines between points.

    Of several crossings the quietest counts. None where the points do not reach on
    both sides of the rate.
    """
    order = np.argsort(points.asr)
    rates, levels = points.asr[order], points.snr_db[order]
    crossings = []
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
    return Points(points.name, *(column[kept] for column in points[1:]))


def fronts_of(
    table: Table, series: Sequence[str]
) -> dict[tuple[str, str], list[Points]]:
    """Returns the undominated points of each series, by model and goal.

    Args:
        table: With "model", "target" and `MEASURES`.
        series: Settings that tell lines apart.
    """
    rows = [
        row
        for row in table.rows
        if is_number(row["test.snr_ac_db"]) and is_number(row["test.asr"])
    ]
    names = list(dict.fromkeys(tuple(row[key] for key in series) for row in rows))
    labels = dict(zip(names, series_names(names), strict=True))
    fronts: dict[tuple[str, str], dict[str, list[tuple[float, ...]]]] = {}
    for row in rows:
        lines = fronts.setdefault((row["model"], row["target"]), {})
        noise = row["control.asr"] if is_number(row["control.asr"]) else np.nan
        lines.setdefault(labels[tuple(row[key] for key in series)], []).append(
            (row["test.snr_ac_db"], row["test.asr"], noise)
        )
    return {
        goal: [undominated(_sorted(name, points)) for name, points in lines.items()]
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
    return [
        " ".join(
            str(value) for value, shown in zip(key, differing, strict=True) if shown
        )
        for key in keys
    ]


def _sorted(name: str, points: Sequence[tuple[float, ...]]) -> Points:
    columns = np.array(sorted(points), float).reshape(-1, 3)[::-1].T
    return Points(name, *columns)
