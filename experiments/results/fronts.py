"""Draws success rate against level of recorded runs, and prints where rates are met.

python experiments/results/fronts.py FIGURE.svg TITLE NAME=SOURCE[,SOURCE...] ...

A source is the folder of a run, which holds its result.json, or FILE.jsonl:GOAL, the
points of method NAME for a goal that `quietest/compare.py` has left, whatever their
settings, of runs that reached one of their rates at least. All those of a name are one
line of the figure, the best of them. The figure has colours of its own, so that it can
be shown outside of a report.
"""

import json
import math
import sys
from pathlib import Path
from typing import Any

from uap_jax import files
from uap_jax.reporting.fronts import (
    Points,
    draw_front,
    points_of,
    snr_at_rate,
    undominated,
)

RATES = (0.95, 0.9, 0.8, 0.7, 0.6, 0.5)


def main() -> None:
    figure, title, *named = sys.argv[1:]
    series = [read(*argument.split("=", 1)) for argument in named]
    Path(figure).write_text(draw_front(series, title=title).svg)
    print("| test ASR | " + " | ".join(points.name for points in series) + " |")
    print("| --- " * (len(series) + 1) + "|")
    for rate in RATES:
        levels = [snr_at_rate(points, rate) for points in series]
        cells = ["-" if level is None else f"{level:.1f}" for level in levels]
        print(f"| {rate:.2f} | {' | '.join(cells)} |")


def read(name: str, sources: str) -> Points:
    """Returns the points of a line that are worth drawing.

    No other point is better than those in both ways, and no line of a single run is
    quieter at their rate: what settings reach between two of their points counts too.
    """
    results = runs_of(name, sources)
    lines = [undominated(points_of(name, run)) for run in results]
    every = undominated(points_of(name, [r for run in results for r in run]))

    def is_quietest(snr_db: float, rate: float) -> bool:
        others = (snr_at_rate(line, rate) for line in lines)
        return all(other is None or snr_db >= other for other in others)

    kept = [*map(is_quietest, every.snr_db, every.asr)]
    return Points(name, *(column[kept] for column in every[1:]))


def runs_of(name: str, sources: str) -> list[list[dict[str, Any]]]:
    """Returns the runs of a line, what each found as in a result.json.

    Folders are one run, as they differ in the rate at which they were stopped.
    """
    folders, runs = [], []
    for source in sources.split(","):
        path, _, goal = source.partition(":")
        if not path.endswith(".jsonl"):
            folders.append(json.loads((Path(path) / "result.json").read_text()))
            continue
        runs += [
            [
                {
                    "test": {"asr": p["test_asr"], "snr_ac_db": p["snr_ac_db"]},
                    "control": {"asr": math.nan},
                }
                for p in run["points"]
            ]
            for run in files.read_lines(Path(path))
            if run["goal"] == goal and run["variant"].split(":")[0] == name
            # What reached no rate is next to silence, far off to the right.
            if any(p["train_asr"] >= p["rate"] for p in run["points"])
        ]
    return [folders, *runs] if folders else runs


if __name__ == "__main__":
    main()
