"""Draws the picture of the README from the recorded sweep in `any_moment`.

python experiments/results/picture.py docs/assets/any_moment.svg

Levels and rates are means over the victims, for each success rate of the fronts.
"""

import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np

HERE = Path(__file__).parent
GOALS = {"untargeted": "any wrong word", "down": 'always "down"'}
BLUE, ORANGE, GREY = "#0b62b5", "#c2410c", "#475569"


class Line(NamedTuple):
    """Means over victims, `[L]` each, the quietest last."""

    snr_db: np.ndarray
    with_the_clip: np.ndarray
    any_moment: np.ndarray
    worst_decile: np.ndarray
    white: np.ndarray
    same_spectrum: np.ndarray


def main() -> None:
    plt.rcParams.update({"svg.hashsalt": "", "font.size": 9, "svg.fonttype": "path"})
    figure, axes = plt.subplots(1, 2, figsize=(8.4, 3.7), sharey=True, sharex=True)
    for axis, (goal, title) in zip(axes, GOALS.items(), strict=True):
        draw(axis, goal, title)
    axes[0].set_ylabel("clips fooled (%)")
    figure.supxlabel(
        "recording over sound, mean-free SNR (dB):  louder ⟵   ⟶ quieter", fontsize=9
    )
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, ncols=3, loc="upper center")
    figure.tight_layout(rect=(0, 0, 1, 0.87))
    figure.savefig(sys.argv[1], metadata={"Date": None}, facecolor="white")


def draw(axis: plt.Axes, goal: str, title: str) -> None:
    """Draws one goal: sounds for the start of a clip, and sounds for any moment."""
    starts, moment = line_of(goal, None), line_of(goal, "moment")
    for line, rate, label, look in (
        (
            starts,
            "with_the_clip",
            "starts with the clip, to the sample",
            {"color": BLUE},
        ),
        (
            starts,
            "any_moment",
            "the same sounds at any moment",
            {"color": BLUE, "linestyle": "--", "markerfacecolor": "white"},
        ),
        (moment, "any_moment", "made for any moment", {"color": ORANGE}),
    ):
        rates = getattr(line, rate)
        axis.plot(line.snr_db, rates, label=label, marker="o", ms=4, **look)
    axis.fill_between(
        moment.snr_db,
        moment.worst_decile,
        moment.any_moment,
        color=ORANGE,
        alpha=0.15,
        lw=0,
        label="down to the worst tenth of moments",
    )
    for line, labels in (
        (moment, ("white noise", "noise of the same spectrum")),
        (starts, (None, None)),
    ):
        rates = (line.white, line.same_spectrum)
        dashes = (":", (0, (4, 1.5, 1, 1.5)))
        for rate, dash, label in zip(rates, dashes, labels, strict=True):
            axis.plot(line.snr_db, rate, color=GREY, linestyle=dash, label=label)
    axis.axvline(0, color="#94a3b8", lw=0.8)
    axis.annotate(
        "as loud as\nthe speech", (0, 3), (-0.4, 3), ha="right", color="#475569"
    )
    axis.set(title=title, ylim=(0, 100), xlim=(-7, 21), xticks=range(-5, 21, 5))
    axis.grid(color="#e2e8f0", lw=0.8)
    axis.spines[["top", "right"]].set_visible(False)


def line_of(goal: str, channel: str | None) -> Line:
    """Returns the means over victims at each success rate, in %."""
    made_for = "with_the_clip" if channel is None else channel
    rates: dict[float, list[list[float]]] = {}
    for path in sorted((HERE / "any_moment").glob(f"{made_for}-{goal}-seed?")):
        result: dict[str, Any] = json.loads((path / "result.json").read_text())
        pairs = zip(result["front"], result["channels"]["front"], strict=True)
        for tested, moments in pairs:
            if "mean" in moments:
                control = tested["control"]
                rates.setdefault(tested["asr_level"], []).append(
                    [
                        tested["test"]["snr_ac_db"],
                        100 * tested["test"]["asr"],
                        100 * moments["mean"],
                        100 * moments["worst_decile"],
                        100 * control["asr"],
                        100 * control["same_spectrum"]["asr"],
                    ]
                )
    # A rate that a victim lacks has no mean over all of them.
    most = max(map(len, rates.values()))
    means = [np.mean(rows, axis=0) for rows in rates.values() if len(rows) == most]
    return Line(*np.array(sorted(means, key=lambda row: row[0])).T)


if __name__ == "__main__":
    main()
