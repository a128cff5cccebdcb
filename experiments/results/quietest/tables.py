"""Tables of what `compare.py` measured.

    python experiments/results/quietest/tables.py FOLDER[/points.jsonl] [RATE]

The level of a run at a test success rate is where the line through its points crosses
it, in mean-free SNR; for penalty with the paper's settings, beside it, how much quieter
the decoupled method is.
"""

import json
import statistics
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from uap_jax.reporting.fronts import Points, snr_at_rate

# What "within" its final level means for the number of passes.
CLOSE_DB = 0.5
PAPER, OURS = "penalty", "decoupled"


def main() -> None:
    path = Path(sys.argv[1])
    path = path / "points.jsonl" if path.is_dir() else path
    rate = float(sys.argv[2]) if len(sys.argv) > 2 else 0.9
    runs = [json.loads(line) for line in path.read_text().splitlines()]
    by_goal: dict[str, dict[str, list[float | None]]] = defaultdict(dict)
    variants = list(dict.fromkeys(run["variant"] for run in runs))
    for run in runs:
        crossed = snr_at_rate(points_of(run), rate)
        by_goal[run["goal"]].setdefault(run["variant"], []).append(crossed)
    print(f"mean-free SNR (dB) at a test success rate of {rate:g}; seeds one by one")
    print("| goal | " + " | ".join(variants) + " | quieter than penalty |")
    print("| --- " * (len(variants) + 2) + "|")
    for goal, found in by_goal.items():
        cells = [
            ", ".join("-" if level is None else f"{level:.1f}" for level in levels)
            for levels in (found.get(variant, []) for variant in variants)
        ]
        pairs = zip(found.get(OURS, []), found.get(PAPER, []), strict=False)
        gains = [a - b for a, b in pairs if a is not None and b is not None]
        gain = f"{statistics.fmean(gains):.1f}" if gains else "-"
        print(f"| {goal} | {' | '.join(cells)} | {gain} |")
    gaps, quick = [], []
    for run in runs:
        if run["variant"] != OURS:
            continue
        chosen = [p for p in run["points"] if abs(p["rate"] - 0.9) < 1e-6]
        gaps += [p["train_asr"] - p["test_asr"] for p in chosen]
        quick.append(passes_to_final(run))
    if gaps:
        print(f"\ntraining minus test rate at 0.9: mean {statistics.fmean(gaps):.3f}, ")
        print(f"from {min(gaps):.3f} to {max(gaps):.3f} in {len(gaps)} runs")
        print(f"passes to within {CLOSE_DB} dB of the highest rate's level: {quick}")


def points_of(run: dict[str, Any]) -> Points:
    rows = [(p["snr_ac_db"], p["test_asr"], np.nan) for p in run["points"]]
    return Points(run["variant"], *np.array(rows, float).reshape(-1, 3).T)


def passes_to_final(run: dict[str, Any]) -> int | None:
    """Returns the pass after which the highest rate was held so quietly."""
    highest = max(map(float, run["rates"]))
    good = [
        (index + 1, entry["norm"])
        for index, entry in enumerate(run["progress"])
        if entry["asr"] >= highest
    ]
    if not good:
        return None
    limit = min(norm for _, norm in good) * 10 ** (CLOSE_DB / 20)
    return next(index for index, norm in good if norm <= limit)


if __name__ == "__main__":
    main()
