"""Theorem 1: how close the penalty method comes to the constrained optimum, Eq. 4.

    python experiments/theorem/theorem.py --output=runs/theorem

The victim is linear in the space of v' (Eq. 7), so that Eq. 4, the least level that
fools every clip, is a convex problem with a known solution. The penalty method
minimises Eq. 11 with kappa = 0 for a fixed number of steps; its level over the steps is
compared with the optimum's. Coefficients c are multiples of the least with which the
optimum is a stationary point of Eq. 11, which follows from the multipliers of the
convex problem.
"""

import math
from pathlib import Path

import numpy as np
from absl import flags
from linear_victim import (
    CLOSE_DB,
    NUM_CLASSES,
    Row,
    constraints,
    least_coefficient,
    least_norm,
    make_problem,
    run_penalty,
)
from matplotlib.figure import Figure

from uap_jax import environment
from uap_jax.console import Console, run_app
from uap_jax.errors import UsageError
from uap_jax.reporting import svg

OUTPUT = flags.DEFINE_string("output", "runs/theorem", "Folder of table and figure.")
SHARES = flags.DEFINE_list(
    "coefficients", ["0.5", "1.5", "5", "20"], "Multiples of the least c."
)
RATES = flags.DEFINE_list("learning_rates", ["0.003", "0.0003"], "Of Adam.")
SEEDS = flags.DEFINE_list("seeds", ["0", "1", "2"], "Of victim and clips.")
NUM_STEPS = flags.DEFINE_integer("num_steps", 2000, "Of Adam.", lower_bound=1)
NUM_CLIPS = flags.DEFINE_integer("num_clips", 50, "Attack clips.", lower_bound=1)
NUM_SAMPLES = flags.DEFINE_integer("num_samples", 64, "Of a clip.", lower_bound=4)


def main() -> int:
    console = Console()
    shares, rates = (_numbers(flag.name, flag.value) for flag in (SHARES, RATES))
    seeds = [int(seed) for seed in _numbers(SEEDS.name, SEEDS.value)]
    sizes = {"num_clips": NUM_CLIPS.value, "num_samples": NUM_SAMPLES.value}
    rows = []
    for seed in seeds:
        problem = make_problem(seed, **sizes)
        solution = least_norm(*constraints(problem))
        least = least_coefficient(solution, NUM_CLIPS.value)
        optimum_db = 10 * math.log10(np.mean(np.square(solution.value)))
        console.say(f"seed {seed}: optimum {optimum_db:.2f} dB, least c {least:.3g}")
        for share in shares:
            for rate in rates:
                level_db, asr = run_penalty(
                    problem,
                    coefficient=share * least,
                    learning_rate=rate,
                    num_steps=NUM_STEPS.value,
                )
                rows.append(Row(share, rate, seed, level_db - optimum_db, asr))
                best = f"{rows[-1].best_db:.3f} dB above the optimum at best"
                if math.isnan(rows[-1].best_db):
                    best = f"fools {asr[-1]:.0%} at last, at {level_db[-1]:.0f} dB"
                console.say(f"seed {seed}, c {share:g} x, rate {rate:g}: {best}")
    folder = Path(OUTPUT.value)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "theorem_1.md").write_text(as_markdown(rows))
    (folder / "theorem_1.svg").write_text(draw(rows).svg)
    console.say(f"table: {folder / 'theorem_1.md'}")
    return 0


def as_markdown(rows: list[Row]) -> str:
    """Returns a table with a row for each setting, means and ranges over seeds."""
    hardware, versions = environment.hardware(), environment.versions()
    seeds = sorted({row.seed for row in rows})
    lines = [
        "# Theorem 1: the penalty method on a linear victim\n",
        f"{NUM_CLIPS.value} clips of {NUM_SAMPLES.value} samples, {NUM_CLASSES} "
        "classes, one target, kappa 0, all clips in every batch, "
        f"{NUM_STEPS.value} steps of Adam from v' = 0; "
        f"seeds {', '.join(map(str, seeds))}.\n",
        "| c over the least | learning rate | quietest that fools all clips, above the "
        f"optimum (dB) | steps to {CLOSE_DB:g} dB | last step: level above (dB), ASR |",
        "| --- | --- | --- | --- | --- |",
    ]
    for share, rate in dict.fromkeys((row.share, row.learning_rate) for row in rows):
        members = [r for r in rows if (r.share, r.learning_rate) == (share, rate)]
        cells = [
            _listed([row.best_db for row in members], ".3f"),
            _listed([row.steps for row in members], ".0f"),
            _listed([row.excess_db[-1] for row in members], ".2f")
            + "; "
            + _listed([row.asr[-1] for row in members], ".2f"),
        ]
        lines.append(f"| {share:g} | {rate:g} | {' | '.join(cells)} |")
    processor = f"{hardware['processor']}, {hardware['num_cores']} cores"
    lines += [
        "",
        '"-": no step did. One value for each seed.\n',
        f"- {processor}; "
        + ", ".join(f"{name} {version}" for name, version in versions.items()),
    ]
    return "\n".join(lines) + "\n"


def draw(rows: list[Row]) -> svg.Drawing:
    """Draws the level above the optimum over the steps, for the first seed."""
    shown = [row for row in rows if row.seed == rows[0].seed]
    shares = list(dict.fromkeys(row.share for row in shown))
    rates = list(dict.fromkeys(row.learning_rate for row in shown))
    alt = "Level above the optimum over the steps. " + "; ".join(
        f"c {row.share:g} times the least, rate {row.learning_rate:g}: "
        f"{row.excess_db[-1]:.2f} dB after {len(row.asr)} steps"
        for row in shown
    )
    with svg.style():
        figure = Figure(figsize=(6.2, 3.6), layout="constrained")
        axes = figure.add_subplot()
        for row in shown:
            axes.plot(
                np.arange(1, len(row.asr) + 1),
                row.excess_db,
                label=f"c {row.share:g} x, rate {row.learning_rate:g}",
                color=svg.SERIES[shares.index(row.share) % len(svg.SERIES)],
                linestyle=("-", "--", ":", "-.")[rates.index(row.learning_rate) % 4],
                linewidth=1.2,
            )
        axes.axhline(0.0, color=svg.INK, linewidth=0.8)
        axes.set_xscale("log")
        axes.set_ylim(-6, 12)
        axes.set_xlabel("steps")
        axes.set_ylabel("level above the optimum (dB)")
        axes.grid(True)
        axes.legend(frameon=False, labelcolor="linecolor", ncols=2, fontsize=7)
        return svg.draw(figure, alt)


def _listed(values: list[float], form: str) -> str:
    return ", ".join(
        "-" if math.isnan(value) else f"{value:{form}}" for value in values
    )


def _numbers(flag: str, texts: list[str]) -> list[float]:
    try:
        found = [float(text) for text in texts]
    except ValueError:
        found = []
    if not found or not all(0 <= number < math.inf for number in found):
        raise UsageError(f"--{flag}: expected numbers, got {','.join(texts)!r}")
    return found


if __name__ == "__main__":
    run_app(main)
