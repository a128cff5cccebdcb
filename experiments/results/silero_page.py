"""Prints the tables of docs/results/silero_vad.md and draws its picture.

python experiments/results/silero_page.py docs/assets/silero_vad.svg
"""

import itertools
import json
import sys
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

RESULT = Path(__file__).parent / "silero_vad" / "result.json"
COLUMNS = {
    "sound": "sound",
    "shifted": "shifted",
    "white_noise": "white noise",
    "same_spectrum": "same spectrum",
    "clean": "clean",
}
# (goal, measure) on the page.
TABLES = [("miss", "clips"), ("miss", "timestamps"), ("miss", "chunks")]
TABLES += [("alarm", "clips"), ("alarm", "timestamps")]
STYLES = {
    "sound": ("the sound", "#0b62b5", "-"),
    "shifted": ("the sound at another moment", "#15803d", "--"),
    "white_noise": ("white noise of its level", "#475569", ":"),
    "same_spectrum": ("noise of its spectrum", "#475569", (0, (4, 1.5, 1, 1.5))),
}


def main() -> None:
    runs = json.loads(RESULT.read_text())["runs"]
    for goal, measure in TABLES:
        print(f"\n{goal}, {measure}\n")
        print("\n".join(table(runs, goal, measure)))
    for moments in (run["moments"] for run in runs if "moments" in run):
        print(moments)
    draw(runs, Path(sys.argv[1]))


def table(runs: list[dict[str, Any]], goal: str, measure: str) -> list[str]:
    """Means over the seeds, and their standard deviations, as rows of Markdown."""
    names = (
        "attack",
        "rate asked",
        "mean-free SNR (dB)",
        "RMS (dBFS)",
        *COLUMNS.values(),
    )
    rows = [names, ["---"] * len(names)]
    runs = [run for run in runs if run["goal"] == goal]
    for (method, asked), group in grouped(runs):
        level_keys = ("snr_ac_db", "rms_dbfs")
        levels = [spread([run[key] for run in group], 1) for key in level_keys]
        rates = [spread([run[key][measure] for run in group], 3) for key in COLUMNS]
        rows.append((method, str(asked), *levels, *rates))
    return [f"| {' | '.join(row)} |" for row in rows]


def grouped(
    runs: list[dict[str, Any]],
) -> list[tuple[tuple[str, float], list[dict[str, Any]]]]:
    def key(run: dict[str, Any]) -> tuple[str, float]:
        return run["method"], -run["asked"]

    groups = itertools.groupby(sorted(runs, key=key), key)
    return [((method, -asked), list(group)) for (method, asked), group in groups]


def spread(values: list[float], digits: int) -> str:
    return f"{np.mean(values):.{digits}f} ± {np.std(values, ddof=1):.{digits}f}"


def draw(runs: list[dict[str, Any]], path: Path) -> None:
    """Draws the share of missed clips against the level, a thin line for each seed."""
    plt.rcParams.update({"svg.hashsalt": "", "font.size": 9, "svg.fonttype": "path"})
    figure, axis = plt.subplots(figsize=(5.6, 3.5))
    fronts = [
        run for run in runs if (run["goal"], run["method"]) == ("miss", "decoupled")
    ]
    for name, (label, colour, line) in STYLES.items():
        means = []
        for _, group in grouped(fronts):
            snr_db = np.mean([run["snr_ac_db"] for run in group])
            means.append((snr_db, np.mean([run[name]["clips"] for run in group])))
        x, y = np.array(sorted(means)).T
        axis.plot(x, 100 * y, linestyle=line, color=colour, label=label)
        if name != "sound":
            continue
        for seed in sorted({run["seed"] for run in fronts}):
            points = [
                (run["snr_ac_db"], run[name]["clips"])
                for run in fronts
                if run["seed"] == seed
            ]
            x, y = np.array(sorted(points)).T
            axis.plot(x, 100 * y, color=colour, alpha=0.4, lw=0.8, marker=".", ms=4)
    axis.set(
        ylim=(0, 100),
        xlabel="recording over sound, mean-free SNR (dB):  louder ⟵   ⟶ quieter",
        ylabel="speech missed (% of clips)",
    )
    axis.grid(color="#e2e8f0", lw=0.8)
    axis.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None}, facecolor="white")


if __name__ == "__main__":
    main()
