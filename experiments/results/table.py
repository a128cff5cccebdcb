"""Prints the recorded runs of a folder as a Markdown table.

python experiments/results/table.py experiments/results/real_speech
python experiments/results/table.py experiments/results/esc10 1

With the number of one of the paper's tables, its success rate and SNR stand beside each
run: those of the same model, method and scenario, targeted ones the mean over classes.
"""

import json
import sys
from pathlib import Path

from uap_jax.sweeps.published import Published, load_published, published_cell

COLUMNS = (
    "run",
    "clean accuracy",
    "passes",
    "training ASR",
    "test ASR [95 %]",
    "noise, same spectrum",
    "SNR, mean-free SNR, loudness (dB)",
    "one sound, shifted",
    "attack (s)",
)


def main() -> None:
    folder, *numbers = sys.argv[1:]
    published = load_published(numbers[0]) if numbers else None
    columns = [*COLUMNS, *(["the paper's ASR, SNR"] if published else [])]
    print(f"| {' | '.join(columns)} |")
    print("| --- " * len(columns) + "|")
    for path in sorted(Path(folder).glob("*/result.json")):
        result = json.loads(path.read_text())
        cells = row(path.parent.name, result)
        if published:
            cells.append(paper(published, result))
        print(f"| {' | '.join(cells)} |")


def paper(published: Published, result: dict) -> str:
    """Returns the paper's cell for the same model, method and scenario."""
    cell = published_cell(
        published,
        model=result["model"],
        method=result["method"],
        target="mean" if result["target"] else None,
    )
    return f"{cell['test_asr']:.3f}, {cell['snr_db']:.1f}" if cell else "-"


def row(name: str, result: dict) -> list[str]:
    test, control = result["test"], result["control"]
    # Earlier runs have no second control.
    rates = [c["asr"] for c in (control, control.get("same_spectrum")) if c]
    low, high = test["asr_ci95"]
    passes = str(result["num_passes"])
    return [
        f"`{name}`",
        f"{result['clean_accuracy']:.3f}",
        passes if result["converged"] else f"{passes}, goal not reached",
        f"{result['train']['asr']:.3f}",
        f"{test['asr']:.3f} [{low:.3f}, {high:.3f}]",
        ", ".join(f"{rate:.3f}" for rate in rates),
        f"{test['snr_db']:.1f}, {test['snr_ac_db']:.1f}, "
        f"{test['relative_loudness_db']:.1f}",
        f"{test['asr_waveform']:.3f}, {test['asr_shifted']:.3f}",
        f"{result['seconds']['attack']:.0f}",
    ]


if __name__ == "__main__":
    main()
