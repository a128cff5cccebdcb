"""Prints the tables of docs/results/any_moment.md from the recorded runs.

python experiments/results/any_moment.py experiments/results/any_moment
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from uap_jax.sweeps.tables.channels import level_at, points_of

LEVEL = "snr_ac_db"
TARGETED_RATE = 0.80
RATES = (("down", TARGETED_RATE), ("untargeted", 0.80), ("untargeted", 0.85))
MADE_FOR = {
    "with_the_clip": "starts with the clip",
    "once_band100_3400_ambient-30": "the same, band and noise",
    "moment": "any moment",
    "moment_rooms": "any moment, rooms",
}


def main() -> None:
    folder = Path(sys.argv[1])
    print_levels(folder)
    print_targets(folder)
    print_channels(folder / "channels")
    print_lengths(folder)
    print_esc10(folder)


def print_levels(folder: Path) -> None:
    """Level at a rate: what starts with the clip, beside what starts at any moment."""
    print("\n| goal, rate | made to | SNR | with clip | any moment | worst | noises |")
    print("| --- " * 7 + "|")
    for goal, rate in RATES:
        # Untargeted, the goal of 0.85 was in the sweep of targets.
        of_goal = folder if goal == "down" else folder / "targets"
        levels_of = {
            "start with the clip": [
                at_rate(run, "asr", rate)
                for run in results(folder, "with_the_clip", goal)
            ],
            "any moment": [
                at_rate(run, "mean", rate) for run in results(of_goal, "moment", goal)
            ],
        }
        for name, levels in levels_of.items():
            reached = [level for level in levels if level is not None]
            snr, *rates = (
                told([level[key] for level in reached], decimals)
                for key, decimals in (
                    (LEVEL, 1),
                    ("asr", 2),
                    ("mean", 2),
                    ("worst_decile", 2),
                    ("noise", 2),
                    ("same_spectrum", 2),
                )
            )
            shown = ", ".join(f"{level[LEVEL]:.1f}" for level in reached)
            print(
                f"| {goal}, {rate:.2f} | {name} | {snr} ({shown}) | "
                f"{' | '.join(rates[:3])} | {rates[3]}; {rates[4]} |"
            )


def print_targets(folder: Path) -> None:
    """Every target on the first victim."""
    print("\n| target | SNR at 0.80 | worst decile | noises | after 60 passes |")
    print("| --- | --- | --- | --- | --- |")
    points, longer = (
        {
            path.name.split("-")[1]: points_of(read(path))
            for path in sorted((folder / part).glob("moment-*"))
            if "untargeted" not in path.name
        }
        for part in ("targets", "longer")
    )

    def level_of(front: list[dict[str, float]]) -> str:
        level = level_at(front, TARGETED_RATE)
        if level is not None:
            return f"{level[LEVEL]:.1f}"
        return f"{front[-1]['mean']:.2f} at {front[-1][LEVEL]:.1f}" if front else ""

    ordered = sorted(points.items(), key=lambda item: -loudest(item[1])[LEVEL])
    for goal, front in ordered:
        level = loudest(front)
        print(
            f"| {goal} | {level_of(front)} | {level['worst_decile']:.2f} | "
            f"{level['noise']:.2f}; {level['same_spectrum']:.2f} | "
            f"{level_of(longer.get(goal, []))} |"
        )
    levels = [level_at(front, TARGETED_RATE) for front in points.values()]
    reached = [level[LEVEL] for level in levels if level is not None]
    print(
        f"\nmean {np.mean(reached):.1f} dB over {len(reached)} of {len(levels)}; "
        f"{np.sum(np.array(reached) >= 0)} at 0 dB or quieter"
    )


def loudest(front: list[dict[str, float]]) -> dict[str, float]:
    """What a front has at the targeted rate, or its loudest sound where it has not."""
    return level_at(front, TARGETED_RATE) or front[-1]


def print_channels(folder: Path) -> None:
    """Success after channels, by what a sound was made for."""
    columns = {
        label: runs
        for name, label in MADE_FOR.items()
        if (runs := results(folder, name, "down"))
    }
    if not columns:
        return
    rows = {name: [rows_of(run) for run in runs] for name, runs in columns.items()}
    print("\n| after | " + " | ".join(columns) + " |")
    print("| --- " * (1 + len(columns)) + "|")
    levels = [
        told([run["test"]["snr_ac_db"] for run in runs], 1) for runs in columns.values()
    ]
    print("| mean-free SNR (dB) | " + " | ".join(levels) + " |")
    for channel in next(iter(rows.values()))[0]:
        cells = []
        for runs in rows.values():
            entries = [run[channel] for run in runs if channel in run]
            noise = [
                max(e["control"]["asr"], e["control"]["same_spectrum"]["asr"])
                for e in entries
            ]
            waveform = np.mean([e["asr_waveform"] for e in entries])
            rate = told([e["asr"] for e in entries], 2)
            cells.append(f"{rate} ({waveform:.2f}; {np.mean(noise):.2f})")
        print(f"| {channel} | " + " | ".join(cells) + " |")
    moments = [
        [run["channels"]["moments"] for run in runs] for runs in columns.values()
    ]
    for key in ("mean", "worst_decile"):
        cells = [told([each[key] for each in column], 2) for column in moments]
        print(f"| 100 offsets: {key.replace('_', ' ')} | " + " | ".join(cells) + " |")


def print_lengths(folder: Path) -> None:
    """A short looped sound against one as long as a clip."""
    print("\n| sound | SNR at 0.80 | worst decile | noises | rate at the SNR of 1 s |")
    print("| --- | --- | --- | --- | --- |")
    fronts = {
        seconds: [points_of(run) for run in results(folder, name, "down")]
        for name, seconds in (("moment", "1 s"), ("moment-0.25s", "0.25 s"))
    }
    equal_db = [level_at(points, TARGETED_RATE)[LEVEL] for points in fronts["1 s"]]
    for seconds, of_victims in fronts.items():
        levels = [level_at(points, TARGETED_RATE) for points in of_victims]
        cells = [
            told([level[key] for level in levels], decimals)
            for key, decimals in (
                (LEVEL, 1),
                ("worst_decile", 2),
                ("noise", 2),
                ("same_spectrum", 2),
            )
        ]
        rates = []
        for points, snr_db in zip(of_victims, equal_db, strict=True):
            louder = points[::-1]
            snrs, means = ([p[key] for p in louder] for key in (LEVEL, "mean"))
            rates.append(float(np.interp(snr_db, snrs, means)))
        print(
            f"| {seconds} | {cells[0]} | {cells[1]} | {cells[2]}; {cells[3]} | "
            f"{told(rates, 2)} |"
        )


def print_esc10(folder: Path) -> None:
    """Classifiers of environmental sounds, one run each."""
    print("\n| model, target | clean | training | SNR | any moment | worst | noises |")
    print("| --- " * 7 + "|")
    for path in sorted((folder / "esc10").glob("moment-*")):
        run = read(path)
        moments, control = run["channels"]["moments"], rows_of(run)["any moment"]
        noises = control["control"]
        name = path.name.removeprefix("moment-").removesuffix("-seed1")
        print(
            f"| {name} | {run['clean_accuracy']:.3f} | {run['train']['asr']:.3f} | "
            f"{run['test'][LEVEL]:.1f} | {moments['mean']:.2f} | "
            f"{moments['worst_decile']:.2f} | {noises['asr']:.2f}; "
            f"{noises['same_spectrum']['asr']:.2f} |"
        )


def at_rate(run: dict[str, Any], key: str, rate: float) -> dict[str, float] | None:
    """What a front has where a quantity is `rate`, on lines between its points.

    `key` is "asr", of sounds that start with the clip, or "mean", at any moment.
    """
    pairs = zip(run["front"], run["channels"]["front"], strict=True)
    points = [
        {
            "asr": tested["test"]["asr"],
            "noise": tested["control"]["asr"],
            "same_spectrum": tested["control"]["same_spectrum"]["asr"],
            **{name: moments[name] for name in ("mean", "worst_decile", LEVEL)},
        }
        for tested, moments in pairs
        if "mean" in moments
    ]
    points.sort(key=lambda point: point[key])
    if not points or points[-1][key] < rate:
        return None
    at = [point[key] for point in points]
    return {k: float(np.interp(rate, at, [p[k] for p in points])) for k in points[0]}


def results(folder: Path, made_for: str, goal: str) -> list[dict[str, Any]]:
    """The results of all victims, in the order of their seeds."""
    return [read(path) for path in sorted(folder.glob(f"{made_for}-{goal}-seed?"))]


def read(path: Path) -> dict[str, Any]:
    return json.loads((path / "result.json").read_text())


def rows_of(run: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {row["channel"]: row for row in run["channels"]["rows"]}


def told(values: Sequence[float], decimals: int) -> str:
    """Mean and standard deviation, or "-"."""
    if not values:
        return "-"
    mean = f"{np.mean(values):.{decimals}f}"
    return mean + (f" ± {np.std(values, ddof=1):.{decimals}f}" if values[1:] else "")


if __name__ == "__main__":
    main()
