"""Draws success rate against level of recorded runs, and prints where rates are met.

python experiments/results/fronts.py FIGURE.svg TITLE NAME=SOURCE[,SOURCE...] ...

A source is the folder of a run, which holds its result.json, or FILE.jsonl:GOAL, the
points of method NAME for a goal that `quietest/compare.py` has left, whatever their
settings, as far as the attack reached its rate. All those of a name are one line of
the figure, the points that no other is both quieter and more successful than. The
figure has colours of its own, so that it can be shown outside of a report.
"""

import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from uap_jax.experiments import artifacts
from uap_jax.reporting.fronts import (
    Points,
    front_svg,
    points_of,
    snr_at_rate,
    undominated,
)
from uap_jax.reporting.svg import standalone

RATES = (0.95, 0.9, 0.8, 0.7, 0.6, 0.5)


def main() -> None:
    figure, title, *named = sys.argv[1:]
    series = [read(*argument.split("=", 1)) for argument in named]
    drawn = front_svg(
        series, level_label="SNR without the resting level (dB)", title=title
    )
    Path(figure).write_text(standalone(drawn))
    print("| test ASR | " + " | ".join(points.name for points in series) + " |")
    print("| --- " * (len(series) + 1) + "|")
    for rate in RATES:
        levels = [snr_at_rate(points, rate) for points in series]
        cells = ["-" if level is None else f"{level:.1f}" for level in levels]
        print(f"| {rate:.2f} | {' | '.join(cells)} |")


def read(name: str, sources: str) -> Points:
    """Returns the points of a line that are worth drawing."""
    results = [
        result for text in sources.split(",") for result in results_of(name, text)
    ]
    return undominated(points_of(name, results))


def results_of(name: str, source: str) -> Iterator[dict[str, Any]]:
    """Yields what a source holds, each as in a result.json."""
    path, _, goal = source.partition(":")
    if not path.endswith(".jsonl"):
        yield json.loads((Path(path) / "result.json").read_text())
        return
    for run in artifacts.read_lines(Path(path)):
        if run["goal"] == goal and run["variant"].split(":")[0] == name:
            reached = (p for p in run["points"] if p["train_asr"] >= p["rate"])
            for point in reached:
                test = {"asr": point["test_asr"], "snr_ac_db": point["snr_ac_db"]}
                yield {"test": test, "control": {"asr": math.nan}}


if __name__ == "__main__":
    main()
