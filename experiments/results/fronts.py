"""Draws success rate against level of recorded runs, and prints where rates are met.

python experiments/results/fronts.py FIGURE.svg TITLE NAME=FOLDER[,FOLDER...] ...

A folder holds the result.json of a run; all those of a name are one line of the figure.
The figure has colours of its own, so that it can be shown outside of a report.
"""

import json
import sys
from pathlib import Path

from uap_jax.reporting.fronts import Points, front_svg, points_of, snr_at_rate
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


def read(name: str, folders: str) -> Points:
    paths = [Path(folder) / "result.json" for folder in folders.split(",")]
    return points_of(name, [json.loads(path.read_text()) for path in paths])


if __name__ == "__main__":
    main()
