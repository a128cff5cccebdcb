"""What channels leave of the sounds of a sweep: numbers of a trial, levels, a table."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from uap_jax.evaluation.codecs import CODECS
from uap_jax.files import flatten
from uap_jax.runs.channels.table import ROWS
from uap_jax.sweeps.tables.formats import Column, Table
from uap_jax.sweeps.tables.fronts import series_names
from uap_jax.sweeps.tables.kinds import Record, grouped, mean_of, mean_table, spread_of
from uap_jax.sweeps.tables.measures import CONTROLS, RATES
from uap_jax.text import format_decibel, is_number

# The least success in the worst decile of moments at a level that tables tell.
WORST_DECILE = 0.6
_QUANTITIES = ("mean", "worst_decile", "snr_ac_db", "noise", "same_spectrum")
# What the table of a figure of moments has for each point of a front.
_MOMENTS = (
    *("channels.moments.mean", "channels.moments.worst_decile"),
    *("test.asr", "test.snr_ac_db"),
)
AT_ANY_MOMENT = CONTROLS["channels.moments.mean"]
# Rows of `channels_table`: what it says, the rate and the level.
_AFTER = [("with the clip, all test clips", "test.asr", "test.snr_ac_db")]
for _name in (*ROWS, *CODECS):
    _AFTER.append((_name, f"channels.{_name}.asr", f"channels.{_name}.snr_ac_db"))
    if _name == "any moment":
        _AFTER += [
            (f"100 offsets, {what.replace('_', ' ')}", f"channels.moments.{what}", None)
            for what in ("mean", "worst_decile")
        ]
# Success at each offset, and the offsets, both [num_offsets].
ALONG, OFFSETS = "channels.moments.asr", "channels.moments.offsets_s"
MAIN = "main"


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


def points_of_front(record: Record, result: Mapping[str, Any]) -> list[Record]:
    """Returns a record for each point of a trial's front, with its rates at any moment.

    The only one of a trial without a front is the trial's.
    """
    told = result.get("channels") or {}
    points = zip(result.get("front", ()), told.get("front", ()), strict=False)
    records = []
    for tested, at_offsets in points:
        where = {"asr_level": tested["asr_level"]}
        values = None
        if "mean" in at_offsets:
            control = flatten({"control": tested["control"]})
            values = flatten({"test": tested["test"]}) | control
            values |= {
                f"channels.moments.{key}": at_offsets[key]
                for key in ("mean", "worst_decile")
            }
            for path in AT_ANY_MOMENT:
                values[path] = control[path.removeprefix("channels.any moment.")]
        records.append(Record({**record.facts, **where}, values))
    target_asr = record.facts.get("attack.target_asr")
    alone = Record({**record.facts, "asr_level": target_asr}, record.values)
    return records or [alone]


def moment_table(
    records: Sequence[Record], points: Sequence[Record], *, series: Sequence[str]
) -> Table:
    """Success at any moment and level, a row for each success rate of each series.

    Means over `points`, of `points_of_front` of all trials, with the spread of seeds.
    The first row of a series has an entry `MAIN` that no column shows, of `records`:
    level, controls and success along the offset of the trials' main sounds.
    """
    lines = ["model", "goal", *(k for k in series if k not in ("model", "goal"))]
    table = mean_table(points, rows=[*lines, "asr_level"], measures=_MOMENTS)
    main = {
        tuple(key.values()): _main_sound(members)
        for key, members in grouped(records, lines)
    }
    rows = [
        {**row, MAIN: main.pop(tuple(row[key] for key in lines), {})}
        for row in table.rows
    ]
    return table._replace(rows=tuple(rows))


def levels_in_words(records: Sequence[Record], *, series: Sequence[str]) -> list[str]:
    """Returns a line for each goal and success rate: the level of each series there."""
    lines = []
    for (key, members), rate in itertools.product(
        grouped(records, ["model", "goal"]), RATES
    ):
        name = f"channels.at_{rate:.2f}.snr_ac_db"
        groups = list(grouped(members, series))
        names = series_names([tuple(map(str, k.values())) for k, _ in groups])
        texts = []
        for label, (_, trials) in zip(names, groups, strict=True):
            level_db, spread_db = mean_of(trials, name), spread_of(trials, name)
            count = sum(name in (trial.values or {}) for trial in trials)
            told = "not reached" if level_db is None else format_decibel(level_db)
            told += "" if spread_db is None else f" (spread {spread_db:.1f})"
            texts.append(f"{label} {told}, {count} of {len(trials)} trials")
        lines.append(
            f"{key['model']}, {key['goal']}, mean-free SNR at {rate:.2f} at any "
            f"moment, {WORST_DECILE:g} in the worst decile: {'; '.join(texts)}"
        )
    return lines


def channels_table(records: Sequence[Record], *, series: Sequence[str]) -> Table:
    """A row for each channel, codec and quantity; columns for each series.

    Means over trials: success, its standard deviation over the seeds, both controls
    through the same channel, and the level of what reaches the clip.
    """
    groups = list(grouped(records, series))
    names = series_names([tuple(map(str, key.values())) for key, _ in groups])
    several = len({record.facts.get("seed") for record in records}) > 1
    rows = []
    for label, asr, snr_db in _AFTER:
        row: dict[str, Any] = {"after": label}
        controls = CONTROLS.get(asr, AT_ANY_MOMENT)
        for name, (_, members) in zip(names, groups, strict=True):
            row |= {
                f"{name}.asr": mean_of(members, asr),
                f"{name}.spread": spread_of(members, asr),
                **{
                    f"{name}.{short.replace(' ', '_')}": mean_of(members, path)
                    for path, short in controls.items()
                },
                f"{name}.snr_ac_db": snr_db and mean_of(members, snr_db),
            }
        if any(value is not None for key, value in row.items() if key != "after"):
            rows.append(row)
    columns = [Column("after", "after")]
    for name in names:
        columns += [
            Column(f"{name}.asr", "ASR", ".3f", name),
            *([Column(f"{name}.spread", "spread", ".3f", name)] if several else []),
            Column(f"{name}.noise", "noise", ".3f", name),
            Column(f"{name}.same_spectrum", "same spectrum", ".3f", name),
            Column(f"{name}.snr_ac_db", "SNR (dB)", ".1f", name),
        ]
    return Table(tuple(columns), tuple(rows))


def _main_sound(members: Sequence[Record]) -> dict[str, Any]:
    """Returns means over trials along the offset, and of level and controls."""
    measured = [r.values for r in members if r.values and ALONG in r.values]
    if not measured:
        return {}
    names = ("test.snr_ac_db", *AT_ANY_MOMENT)
    return {name: mean_of(members, name) for name in names} | {
        name: np.mean([values[name] for values in measured], axis=0)
        for name in (ALONG, OFFSETS)
    }
