"""What channels leave of the sounds of a sweep: numbers of a trial, levels, a table."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from uap_jax.files import flatten
from uap_jax.sweeps.tables.measures import RATES
from uap_jax.text import is_number

# The least success in the worst decile of moments at a level that tables tell.
WORST_DECILE = 0.6
_QUANTITIES = ("mean", "worst_decile", "snr_ac_db", "noise", "same_spectrum")


def channel_numbers(result: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the numbers of "channels" in a trial's result, by names of measures."""
    told = result.get("channels")
    if not told:
        return {}
    rows = {row["channel"]: row for row in told["rows"]}
    numbers = flatten({"channels": rows})
    points = points_of(result)
    for rate in RATES:
        level = level_at(points, rate)
        name = f"channels.at_{rate:.2f}"
        if points:
            is_quiet = level is not None and level["snr_ac_db"] >= 0
            numbers[f"{name}.reached"] = float(level is not None)
            numbers[f"{name}.at_0_db"] = float(is_quiet)
        numbers |= {f"{name}.{key}": value for key, value in (level or {}).items()}
    return numbers


def points_of(result: Mapping[str, Any]) -> list[dict[str, float]]:
    """Returns what a trial's sounds do at any moment, the quietest first.

    Those of its front, or its one sound: "mean" and "worst_decile" over offsets,
    "snr_ac_db", and the rates "noise" and "same_spectrum"; NaN where there is none.
    """
    told = result.get("channels")
    if not told:
        return []
    alone = {
        **told["moments"],
        **{key: result["test"].get(key) for key in ("asr", "snr_ac_db")},
        "control": result["control"],
    }
    points = []
    for entry in told.get("front") or [alone]:
        if "mean" in entry and is_number(entry["snr_ac_db"]):
            control = entry["control"]
            rates = {
                "noise": control["asr"],
                "same_spectrum": control["same_spectrum"]["asr"],
            }
            values = {**entry, **rates}
            numbers = {
                key: value if is_number(value := values.get(key)) else np.nan
                for key in _QUANTITIES
            }
            points.append(numbers)
    return sorted(points, key=lambda point: -point["snr_ac_db"])


def level_at(
    points: Sequence[Mapping[str, float]], rate: float
) -> dict[str, float] | None:
    """Returns the quietest sound with a success rate at any moment, by interpolation.

    The mean over offsets is at least `rate`, the worst decile at least `WORST_DECILE`.
    All quantities are on lines between points. Where the quietest point has both rates,
    it is that point: no quieter sound was made.

    Args:
        points: Of `points_of`.
        rate: The mean.

    Returns:
        The quantities of `points_of`, or None where no point has both rates.
    """
    wanted = {"mean": rate, "worst_decile": WORST_DECILE}
    quieter = None
    for point in points:
        if all(point[key] >= least for key, least in wanted.items()):
            if quieter is None:
                return dict(point)
            share = min(
                (point[key] - least) / (point[key] - quieter[key])
                for key, least in wanted.items()
                if quieter[key] < least
            )
            return {
                key: point[key] + share * (quieter[key] - point[key]) for key in point
            }
        quieter = point
    return None
