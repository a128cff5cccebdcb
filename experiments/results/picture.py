"""Draws the picture of the README from the recorded runs in `fronts` and `quietest`.

python experiments/results/picture.py docs/assets/how_quiet.svg
"""

import sys
from pathlib import Path

import fronts
import matplotlib.pyplot as plt
import numpy as np

HERE = Path(__file__).parent
CONTROLS = {
    "control": ("noise of the same level", ":"),
    "same_spectrum": ("noise of the same spectrum", (0, (4, 1.5, 1, 1.5))),
}
GOALS = {"untargeted": "any wrong word", "down": 'always "down"'}
STYLES = {
    "decoupled": ("#0b62b5", "o", "-"),
    "penalty": ("#c2410c", "s", "--"),
    "greedy": ("#15803d", "^", "-."),
}


def main() -> None:
    plt.rcParams.update({"svg.hashsalt": "", "font.size": 9, "svg.fonttype": "path"})
    figure, axes = plt.subplots(1, 2, figsize=(8.4, 3.5), sharey=True, sharex=True)
    for axis, (goal, title) in zip(axes, GOALS.items(), strict=True):
        draw(axis, goal, title)
    axes[0].set_ylabel("clips fooled (%)")
    figure.supxlabel(
        "recording over perturbation, mean-free SNR (dB):  louder ⟵   ⟶ quieter",
        fontsize=9,
    )
    figure.tight_layout()
    figure.savefig(sys.argv[1], metadata={"Date": None}, facecolor="white")


def draw(axis: plt.Axes, goal: str, title: str) -> None:
    """Draws one goal: a line for each method, and for controls that were measured."""
    levels, rates = [], {name: [] for name in CONTROLS}
    for method, (colour, marker, line) in STYLES.items():
        points = fronts.read(method, sources(method, goal))
        order = np.argsort(points.snr_db)
        snr_db, asr = points.snr_db[order], 100 * points.asr[order]
        axis.plot(snr_db, asr, line, marker=marker, ms=4, color=colour, label=method)
        levels += [*points.snr_db]
        for name, values in rates.items():
            values += [*(100 * getattr(points, name))]
    for name, values in rates.items():
        pairs = sorted(zip(levels, values, strict=True))
        measured = np.array([pair for pair in pairs if np.isfinite(pair[1])])
        if len(measured):
            label, dashes = CONTROLS[name]
            axis.plot(*measured.T, color="#475569", label=label, linestyle=dashes)
    axis.axvline(0, color="#94a3b8", lw=0.8)
    axis.annotate(
        "as loud as\nthe speech", (0, 50), (-0.4, 50), ha="right", color="#475569"
    )
    axis.set(title=title, ylim=(0, 100), xlim=(-7, 28), xticks=range(0, 30, 5))
    axis.grid(color="#e2e8f0", lw=0.8)
    axis.spines[["top", "right"]].set_visible(False)
    if goal == "down":
        axis.legend(frameon=False, loc="lower left", bbox_to_anchor=(0.19, 0.1))


def sources(method: str, goal: str) -> str:
    """Returns the recorded runs of a line, as `fronts.py` takes them."""
    runs = HERE / "fronts"
    if method == "decoupled":
        return str(runs / f"decoupled-{goal}")
    folders = [str(runs / f"{method}-{goal}-{asr}") for asr in (0.6, 0.8, 0.9, 0.95)]
    return ",".join([*folders, f"{HERE / 'quietest/sweep/points.jsonl'}:{goal}"])


if __name__ == "__main__":
    main()
