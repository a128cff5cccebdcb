"""Tables of what `compare.py` measured.

    python experiments/results/quietest/tables.py FOLDER[/points.jsonl] [RATE ...]

The level of a run at a test success rate is where the line through its undominated
points crosses it, in mean-free SNR. Beside it: how much quieter the decoupled method is
than penalty with the paper's settings, and than the best of all others, on the same
victim, clips and seed. Without RATE: 0.9.
"""

import statistics
import sys
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from uap_jax import files
from uap_jax.attacks import DecoupledConfig
from uap_jax.reporting.fronts import Points, snr_at_rate, undominated

# What "within" its final level means for the number of passes.
CLOSE_DB = 0.5
PAPER, OURS = "penalty", "decoupled"

Levels = dict[str, float | None]


def main() -> None:
    path = Path(sys.argv[1])
    path = path / "points.jsonl" if path.is_dir() else path
    rates = [float(text) for text in sys.argv[2:]] or [0.9]
    runs = files.read_lines(path)
    for rate in rates:
        print_levels(runs, rate)
    print_at_same_rate(runs)
    print_generalisation(runs)


def print_levels(runs: list[dict[str, Any]], rate: float) -> None:
    """Prints a row for each goal, its seeds one by one."""
    variants = list(dict.fromkeys(run["variant"] for run in runs))
    ours = next((v for v in variants if is_ours(v)), OURS)
    paper = next((v for v in variants if is_paper(v)), PAPER)
    by_goal: dict[str, dict[Any, Levels]] = defaultdict(lambda: defaultdict(dict))
    for run in runs:
        alike = (run["seed"], run["model"], run["num_attack_clips"])
        crossed = snr_at_rate(undominated(points_of(run)), rate)
        by_goal[run["goal"]][alike][run["variant"]] = crossed
    print(f"mean-free SNR (dB) at a test success rate of {rate:g}; seeds one by one\n")
    header = ["goal", *variants, f"quieter than {paper}"]
    if any(v != paper and not is_ours(v) for v in variants):
        header.append("than the best other")
    print(f"| {' | '.join(header)} |\n" + "| --- " * len(header) + "|")
    means: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for goal, by_run in by_goal.items():
        cells = [
            ", ".join(shown(found.get(variant)) for found in by_run.values())
            for variant in variants
        ]
        kind = "untargeted" if goal == "untargeted" else "targeted"
        for others in dict.fromkeys(
            ((paper,), tuple(v for v in variants if not is_ours(v)))
        ):
            gains = [
                gain
                for found in by_run.values()
                if (gain := gain_of(found, ours, others)) is not None
            ]
            cells.append(shown(statistics.fmean(gains) if gains else None))
            if gains:
                means[kind][", ".join(others)].append(statistics.fmean(gains))
        print(f"| {goal} | {' | '.join(cells)} |")
    print()
    for kind, by_others in means.items():
        for others, gains in by_others.items():
            print(
                f"{kind}, quieter than {others}: {statistics.fmean(gains):.1f} dB in "
                f"the mean of {len(gains)} goals, from {min(gains):.1f} to "
                f"{max(gains):.1f}"
            )
    print()


def print_at_same_rate(runs: list[dict[str, Any]]) -> None:
    """Prints penalty's quietest point, and the decoupled level at its test rate.

    Penalty goes up in steps: it may have no point below a rate, or one that is many dB
    away, so that a line between its points would say little of it. Where all decoupled
    points have higher rates, the quietest of them stands for it, to its disadvantage.
    """
    by_run: dict[Any, dict[str, dict[str, Any]]] = defaultdict(dict)
    for run in runs:
        name = run["variant"]
        name = OURS if is_ours(name) else PAPER if is_paper(name) else name
        by_run[run["goal"], run["seed"], run["model"]][name] = run
    print("at the test rate of penalty's quietest point, mean-free SNR (dB)\n")
    print("| goal | seed | test ASR | penalty | decoupled | quieter by |")
    print("| --- " * 6 + "|")
    gains: dict[str, list[float]] = defaultdict(list)
    for (goal, seed, _), found in by_run.items():
        if PAPER not in found or OURS not in found or not found[PAPER]["points"]:
            continue
        point = max(found[PAPER]["points"], key=lambda p: p["snr_ac_db"])
        curve = undominated(points_of(found[OURS]))
        ours = snr_at_rate(curve, max(point["test_asr"], float(np.min(curve.asr))))
        gain = None if ours is None else ours - point["snr_ac_db"]
        if gain is not None:
            gains["untargeted" if goal == "untargeted" else "targeted"].append(gain)
        print(
            f"| {goal} | {seed} | {point['test_asr']:.3f} | {point['snr_ac_db']:.1f} | "
            f"{shown(ours)} | {shown(gain)} |"
        )
    print()
    for kind, values in gains.items():
        print(
            f"{kind}: quieter by {statistics.fmean(values):.1f} dB in the mean of "
            f"{len(values)} runs, from {min(values):.1f} to {max(values):.1f}"
        )
    print()


def is_ours(variant: str) -> bool:
    """Whether a variant is the decoupled method, whatever its settings."""
    return variant.split(":", maxsplit=1)[0] == OURS


def is_paper(variant: str) -> bool:
    """Whether a variant is penalty with the paper's settings, but for its passes."""
    name, *overrides = variant.split(":")
    return name == PAPER and all(o.startswith("max_passes=") for o in overrides)


def gain_of(found: Levels, ours: str, others: Iterable[str]) -> float | None:
    """Returns how much quieter `ours` is than the quietest other."""
    levels = [level for name in others if (level := found.get(name)) is not None]
    level = found.get(ours)
    return level - max(levels) if levels and level is not None else None


def shown(level: float | None) -> str:
    return "-" if level is None else f"{level:.1f}"


def print_generalisation(runs: list[dict[str, Any]]) -> None:
    """Prints what training rates are worth on test clips, and how many passes count."""
    ours = [run for run in runs if is_ours(run["variant"])]
    chosen = [p for run in ours for p in run["points"] if abs(p["rate"] - 0.9) < 1e-6]
    if not chosen:
        return
    gaps = [p["train_asr"] - p["test_asr"] for p in chosen]
    print(
        f"training minus test rate at 0.9: mean {statistics.fmean(gaps):.3f}, from "
        f"{min(gaps):.3f} to {max(gaps):.3f} in {len(gaps)} runs"
    )
    passes = [count for run in ours if (count := passes_to_final(run)) is not None]
    if passes:
        print(
            f"passes to within {CLOSE_DB} dB of the level of the first rate: "
            f"{statistics.fmean(passes):.0f} in the mean, {max(passes)} at most"
        )


def points_of(run: dict[str, Any]) -> Points:
    rows = [(p["snr_ac_db"], p["test_asr"], np.nan) for p in run["points"]]
    return Points(run["variant"], *np.array(rows, float).reshape(-1, 3).T)


def passes_to_final(run: dict[str, Any]) -> int | None:
    """Returns the pass after which the first rate was held as quietly as after all.

    The first is the one nearest to 0.9, as `compare.py` has it.
    """
    _, *overrides = run["variant"].split(":")
    settings = dict(override.split("=") for override in overrides)
    count = int(settings.get("max_passes", DecoupledConfig.max_passes))
    first = min(map(float, run["rates"]), key=lambda rate: abs(rate - 0.9))
    good = [
        (index + 1, entry["norm"])
        for index, entry in enumerate(run["progress"][:count])
        if entry["asr"] >= first
    ]
    if not good:
        return None
    limit = min(norm for _, norm in good) * 10 ** (CLOSE_DB / 20)
    return next(index for index, norm in good if norm <= limit)


if __name__ == "__main__":
    main()
