"""One sound that fools a deployed keyword spotter; its official runtime says.

    python experiments/results/keywords.py --data_dir=speech_commands_test_set_v0.02

For each seed the speakers are split anew. The sound is crafted on clips of the training
speakers, written as perturbation.wav, read again, added to raw recordings of the test
speakers and rounded to 16 bits. What the sums are is decided by the package silabs-mltk
(its compiled front end) and LiteRT alone. Settings were chosen with
--evaluate=validation, on speakers that are in no test.
"""

import dataclasses
import json
import time
from collections.abc import Iterable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from uap_jax import attacks, environment
from uap_jax.attacks.decoupled import DecoupledConfig
from uap_jax.attacks.equations import perturbation_waveform
from uap_jax.audio import levels
from uap_jax.audio.box import to_box
from uap_jax.audio.files import read_audio, to_pcm16, write_wav
from uap_jax.bridges.deployed import mltk_keywords as deployed
from uap_jax.data.dataset import Dataset, to_waveform, unit_hash
from uap_jax.data.decoding import Decoding
from uap_jax.data.speech_commands import load_speech_commands
from uap_jax.evaluation import controls
from uap_jax.evaluation.intervals import wilson_interval
from uap_jax.files import default_cache_dir

DATA_DIR = flags.DEFINE_string(
    "data_dir", None, "The official test set of Speech Commands.", required=True
)
OUTPUT = flags.DEFINE_string(
    "output", str(Path(__file__).parent / "keywords"), "Where result.json goes."
)
SOUNDS = flags.DEFINE_string("sounds", "runs/keywords", "Where the sounds go.")
CACHE_DIR = flags.DEFINE_string("cache_dir", None, "Default: that of runs.")
SEEDS = flags.DEFINE_multi_integer("seed", [0, 1, 2], "Of the speakers and the attack.")
GOALS = flags.DEFINE_multi_string(
    "goal", ["down", "left", "untargeted"], "Classes that clips become, or untargeted."
)
EVALUATE = flags.DEFINE_enum(
    "evaluate", "test", ["test", "validation"], "Whose speakers are evaluated."
)

NUM_ATTACK_CLIPS = 1000
TEST_SHARE, VALIDATION_SHARE = 0.3, 0.1
CONFIG = DecoupledConfig(target_asr=0.9, max_passes=40, asr_levels=(0.8, 0.95))
NUM_DRAWS = 3  # of noise of the same spectrum, one sound each


class Clips(NamedTuple):
    attack: np.ndarray  # [M, N] waveforms
    attack_labels: np.ndarray
    test: np.ndarray
    test_labels: np.ndarray
    facts: dict[str, int]


def main(_: list[str]) -> None:
    cache_dir = Path(CACHE_DIR.value or default_cache_dir())
    environment.cache_compilations(cache_dir / "compiled")
    speech = load_speech_commands(DATA_DIR.value, Decoding(cache_dir / "corpora"))
    runs = []
    for seed in SEEDS.value:
        for goal in GOALS.value:
            runs += run(goal, split(speech, seed), seed)
    output = Path(OUTPUT.value)
    output.mkdir(parents=True, exist_ok=True)
    report = {
        "runs": runs,
        "hardware": environment.hardware(),
        "versions": environment.versions()
        | {name: version(name) for name in ("silabs-mltk", "ai-edge-litert")},
    }
    (output / "result.json").write_text(json.dumps(report, indent=1) + "\n")
    print("\n".join(table(runs)))


def table(runs: list[dict[str, Any]]) -> Iterator[str]:
    """Yields the rows of docs/results/keywords.md: means over the seeds."""

    def spread(values: Iterable[float], digits: int) -> str:
        values = list(values)
        deviation = np.std(values, ddof=min(1, len(values) - 1))
        return f"{np.mean(values):.{digits}f} ± {deviation:.{digits}f}"

    for goal, asked in dict.fromkeys((run["goal"], run["asked"]) for run in runs):
        group = [run for run in runs if (run["goal"], run["asked"]) == (goal, asked)]
        cells = [goal, str(asked)]
        cells += [spread((r[k] for r in group), 1) for k in ("snr_ac_db", "rms_dbfs")]
        for name in ("sound", "shifted", "white_noise", "same_spectrum"):
            cells.append(spread((run[name]["asr"] for run in group), 3))
        cells.append(spread((run["sound"]["accuracy"] for run in group), 3))
        yield f"| {' | '.join(cells)} |"


def split(dataset: Dataset, seed: int) -> Clips:
    """Recordings by speakers, of which some are tested, anew for each seed."""

    def draws(of_seed: int) -> np.ndarray:
        return np.array([unit_hash(f"{of_seed}/{group}") for group in dataset.groups])

    # The same speakers for all seeds, so that no test has a part in the settings.
    is_validation = np.abs(draws(0) - TEST_SHARE - VALIDATION_SHARE / 2)
    is_validation = is_validation < VALIDATION_SHARE / 2
    is_test = ~is_validation & (draws(seed) < TEST_SHARE)
    attack = np.flatnonzero(~is_test & ~is_validation)
    attack = np.random.default_rng(seed).permutation(attack)[:NUM_ATTACK_CLIPS]
    test = np.flatnonzero(is_test if EVALUATE.value == "test" else is_validation)
    clips, groups = to_waveform(dataset.clips), dataset.groups
    order = np.array([deployed.CLASS_NAMES.index(name) for name in dataset.class_names])
    labels = order[dataset.labels].astype(np.int32)
    facts = {
        "num_attack_clips": len(attack),
        "num_attack_groups": len(np.unique(groups[attack])),
        "num_test_clips": len(test),
        "num_test_groups": len(np.unique(groups[test])),
    }
    return Clips(clips[attack], labels[attack], clips[test], labels[test], facts)


def run(goal: str, clips: Clips, seed: int) -> list[dict[str, Any]]:
    """Attacks once, and evaluates each perturbation of the front."""
    classifier = deployed.load()
    target = None if goal == "untargeted" else deployed.CLASS_NAMES.index(goal)
    x, _ = to_box(jnp.asarray(clips.attack), scaling="fixed")
    began, began_cpu = time.perf_counter(), time.process_time()
    result = attacks.decoupled(
        classifier.logits,
        classifier.variables,
        x,
        jnp.asarray(clips.attack_labels),
        key=jax.random.key(seed),
        target=target,
        config=CONFIG,
    )
    jax.block_until_ready(result.perturbation.value)
    facts = {
        "goal": goal,
        "seed": seed,
        **clips.facts,
        "num_passes": int(result.num_passes),
        "attack_s": round(time.perf_counter() - began),
        "attack_cpu_s": round(time.process_time() - began_cpu),
    }
    front = result.front
    assert front is not None
    runs = []
    for asked, train_asr, value in zip(
        front.asr_levels, front.train_asr, front.values, strict=True
    ):
        if not np.any(value):  # A rate that was not reached.
            continue
        perturbation = dataclasses.replace(result.perturbation, value=value)
        folder = Path(SOUNDS.value) / f"{goal}-seed{seed}-{float(asked):.2f}"
        sound = write_and_read(perturbation, folder)
        rates = {"asked": rounded(asked), "train_asr": rounded(train_asr)}
        runs.append(facts | rates | evaluate(sound, clips, target, seed))
        print(json.dumps(runs[-1]), flush=True)
    return runs


def write_and_read(perturbation: attacks.Perturbation, folder: Path) -> np.ndarray:
    folder.mkdir(parents=True, exist_ok=True)
    sound = np.asarray(perturbation_waveform(perturbation))
    rate_hz = deployed.SAMPLE_RATE_HZ
    write_wav(folder / "perturbation.wav", sound, sample_rate_hz=rate_hz)
    return read_audio(folder / "perturbation.wav", sample_rate_hz=rate_hz)


def evaluate(
    sound: np.ndarray, clips: Clips, target: int | None, seed: int
) -> dict[str, Any]:
    """Returns levels, and what the official runtime says with sound and controls."""
    official = deployed.official()

    def classes(waveforms: np.ndarray) -> np.ndarray:
        return np.argmax(official(to_pcm16(waveforms)), axis=1)

    clean = classes(clips.test)
    rng = np.random.default_rng(seed)
    white = levels.rms(sound) * rng.standard_normal(clips.test.shape)
    signal = attacks.Perturbation(jnp.asarray(sound), "signal")
    turned = [
        np.asarray(controls.same_spectrum(signal, key).value)
        for key in jax.random.split(jax.random.key(seed), NUM_DRAWS)
    ]

    def outcome(waveforms: np.ndarray) -> dict[str, Any]:
        got = classes(waveforms.astype(np.float32))
        reached = got != clean if target is None else got == target
        ends = wilson_interval(int(np.sum(reached)), len(reached))
        # Clips that were right and not the target already: what a target has to move.
        counted = clean == clips.test_labels
        if target is not None:
            counted &= clips.test_labels != target
        return {
            "asr": rounded(np.mean(reached)),
            "asr_ci95": [rounded(end) for end in ends],
            "asr_clean_correct": rounded(np.mean(reached[counted])),
            "accuracy": rounded(np.mean(got == clips.test_labels)),
        }

    snr_db = levels.snr_ac_db(clips.test, np.broadcast_to(sound, clips.test.shape))
    in_jax = deployed.load()
    x = jnp.asarray(0.5 + 0.5 * to_waveform(to_pcm16(clips.test + sound)))
    ours = np.argmax(jax.jit(in_jax.logits)(in_jax.variables, x), axis=1)
    agreeing = ours == classes(clips.test + sound)
    coloured = [outcome(clips.test + other) for other in turned]
    shifts = rng.integers(len(sound), size=len(clips.test))
    shifted = np.stack([np.roll(sound, shift) for shift in shifts])
    return {
        "snr_ac_db": rounded(np.nanmean(snr_db), 2),
        "snr_ac_db_median": rounded(np.nanmedian(snr_db), 2),
        "num_silent": int(np.sum(np.isnan(snr_db))),
        "rms_dbfs": rounded(levels.spl_db(sound), 2),
        "clean_accuracy": rounded(np.mean(clean == clips.test_labels)),
        "sound": outcome(clips.test + sound),
        "shifted": outcome(clips.test + shifted),
        "white_noise": outcome(clips.test + white),
        "same_spectrum": {
            name: rounded(np.mean([draw[name] for draw in coloured]))
            for name in ("asr", "asr_clean_correct", "accuracy")
        },
        "same_class_in_jax": rounded(np.mean(agreeing)),
    }


def rounded(number: Any, digits: int = 4) -> float:
    return round(float(number), digits)


if __name__ == "__main__":
    app.run(main)
