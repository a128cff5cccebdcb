"""One sound that makes Silero VAD miss speech, or hear some; the official runtime says.

    python experiments/results/silero.py --data_dir=speech_commands_test_set_v0.02 \
        --esc10_dir=esc10

For each seed the speakers are split anew. The sound is crafted on clips of the training
speakers, written as perturbation.wav, read again, added to raw recordings of the test
speakers and rounded to 16 bits. Whether the sums have speech is decided by the package
silero-vad alone. Settings were chosen with --evaluate=validation, on speakers that are
in no test. A sound that is there already is not crafted again.
"""

import dataclasses
import json
import math
import time
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import silero_vad
import torch
from absl import app, flags

from uap_jax import attacks, environment
from uap_jax.attacks.decoupled import DecoupledConfig
from uap_jax.attacks.equations import perturbation_waveform
from uap_jax.attacks.penalty import PenaltyConfig
from uap_jax.audio import levels
from uap_jax.audio.box import to_box
from uap_jax.audio.channels import moment
from uap_jax.audio.files import read_audio, to_pcm16, write_wav
from uap_jax.bridges.deployed import silero_vad as deployed
from uap_jax.data.dataset import Dataset, to_waveform, unit_hash
from uap_jax.data.decoding import Decoding
from uap_jax.data.esc import load_esc
from uap_jax.data.speech_commands import SILENCE, load_speech_commands
from uap_jax.evaluation import controls
from uap_jax.evaluation.intervals import wilson_interval
from uap_jax.files import default_cache_dir

DATA_DIR = flags.DEFINE_string(
    "data_dir", None, "The official test set of Speech Commands.", required=True
)
ESC10_DIR = flags.DEFINE_string("esc10_dir", None, "ESC-10, for false alarms.")
OUTPUT = flags.DEFINE_string(
    "output", str(Path(__file__).parent / "silero_vad"), "Where result.json goes."
)
SOUNDS = flags.DEFINE_string("sounds", "runs/silero_vad", "Where the sounds go.")
CACHE_DIR = flags.DEFINE_string("cache_dir", None, "Default: that of runs.")
SEEDS = flags.DEFINE_multi_integer("seed", [0, 1, 2], "Of the speakers and the attack.")
METHODS = flags.DEFINE_multi_string(
    "method", ["decoupled", "penalty", "moment"], "Attacks; moment: decoupled, looped."
)
EVALUATE = flags.DEFINE_enum(
    "evaluate", "test", ["test", "validation"], "Whose speakers are evaluated."
)

RATE_HZ = deployed.SAMPLE_RATE_HZ
NUM_ATTACK_CLIPS = 1000
TEST_SHARE, VALIDATION_SHARE = 0.3, 0.1
# "no speech", "speech": what a clip is made to be.
GOALS = {"miss": 0, "alarm": 1}
CONFIGS = {
    "decoupled": DecoupledConfig(
        batch_size=30,
        max_passes=30,
        level_passes=8,
        target_asr=0.9,
        asr_levels=(0.3, 0.5, 0.7, 0.8, 0.95),
    ),
    "penalty": PenaltyConfig(),
    "moment": DecoupledConfig(
        batch_size=30,
        max_passes=20,
        level_passes=6,
        target_asr=0.9,
        asr_levels=(0.5, 0.8),
        max_shift=0,
    ),
}
NUM_DRAWS = 3  # of noise of the same spectrum, one sound each
NUM_MOMENTS = 100  # of a sound for any moment, on this many clips
NUM_MOMENT_CLIPS = 200
NUM_WHOLE = 50  # clips that go through the whole official function


class Clips(NamedTuple):
    attack: np.ndarray  # [M, N] waveforms
    test: np.ndarray
    facts: dict[str, int]


def main(_: list[str]) -> None:
    warnings.simplefilter("ignore")
    cache_dir = Path(CACHE_DIR.value or default_cache_dir())
    environment.cache_compilations(cache_dir / "compiled")
    decoding = Decoding(cache_dir / "corpora")
    speech = load_speech_commands(DATA_DIR.value, decoding)
    runs = []
    for seed in SEEDS.value:
        for method in METHODS.value:
            runs += run("miss", method, split_speech(speech, seed), seed)
    if ESC10_DIR.value:
        sounds = load_esc(ESC10_DIR.value, decoding, subset="esc10")
        for seed in SEEDS.value:
            runs += run("alarm", "decoupled", split_sounds(sounds, seed), seed)
    output = Path(OUTPUT.value)
    output.mkdir(parents=True, exist_ok=True)
    report = {
        "runs": runs,
        "hardware": environment.hardware(),
        "versions": environment.versions() | {"silero-vad": silero_vad.__version__},
    }
    # A line for each run.
    lines = json.dumps(report).replace('{"goal"', '\n{"goal"')
    (output / "result.json").write_text(f"{lines}\n")


def split_speech(dataset: Dataset, seed: int) -> Clips:
    """Recordings of words by speakers, of which some are tested, anew for each seed."""

    def draws(of_seed: int) -> np.ndarray:
        return np.array([unit_hash(f"{of_seed}/{group}") for group in dataset.groups])

    # The same speakers for all seeds, so that no test has a part in the settings.
    is_validation = np.abs(draws(0) - TEST_SHARE - VALIDATION_SHARE / 2)
    is_validation = is_validation < VALIDATION_SHARE / 2
    is_test = ~is_validation & (draws(seed) < TEST_SHARE)
    is_speech = np.array(dataset.class_names)[dataset.labels] != SILENCE
    attack = np.flatnonzero(is_speech & ~is_test & ~is_validation)
    attack = np.random.default_rng(seed).permutation(attack)[:NUM_ATTACK_CLIPS]
    evaluated = is_test if EVALUATE.value == "test" else is_validation
    return take(dataset, attack, np.flatnonzero(is_speech & evaluated))


def split_sounds(dataset: Dataset, seed: int) -> Clips:
    """The first second of field recordings; the fold that is tested differs by seed."""
    folds = np.array([int(Path(name).name.partition("-")[0]) for name in dataset.names])
    is_test = folds == 4 - seed % 4
    return take(dataset, np.flatnonzero(~is_test), np.flatnonzero(is_test))


def take(dataset: Dataset, attack: np.ndarray, test: np.ndarray) -> Clips:
    clips = to_waveform(dataset.clips)
    groups = dataset.groups
    facts = {
        "num_attack_clips": len(attack),
        "num_attack_groups": len(np.unique(groups[attack])),
        "num_test_clips": len(test),
        "num_test_groups": len(np.unique(groups[test])),
    }
    return Clips(clips[attack], clips[test], facts)


def run(goal: str, method: str, clips: Clips, seed: int) -> list[dict[str, Any]]:
    """Evaluates each sound of an attack, which is carried out if there are none."""
    name = f"{goal}-{method}-seed{seed}"
    if not sorted_facts(name):
        craft(goal, method, clips, seed, name)
    runs = []
    for path in sorted_facts(name):
        sound = read_audio(path.with_name("perturbation.wav"), sample_rate_hz=RATE_HZ)
        facts = json.loads(path.read_text())
        runs.append(facts | evaluate(sound, clips.test, goal, seed))
        if method == "moment" and facts["asked"] == CONFIGS[method].target_asr:
            runs[-1]["moments"] = by_moment(sound, clips.test, seed)
        print(json.dumps(runs[-1]), flush=True)
    return runs


def sorted_facts(name: str) -> list[Path]:
    return sorted(Path(SOUNDS.value).glob(f"{name}-*/facts.json"), reverse=True)


def craft(goal: str, method: str, clips: Clips, seed: int, name: str) -> None:
    """Attacks once; writes each sound of the front, and how it came about."""
    classifier, config = deployed.load(), CONFIGS[method]
    x, _ = to_box(jnp.asarray(clips.attack), scaling="fixed")
    target = GOALS[goal]
    began, began_cpu = time.perf_counter(), time.process_time()
    result = attacks.run(
        classifier.logits,
        classifier.variables,
        x,
        jnp.full(len(x), 1 - target, jnp.int32),
        key=jax.random.key(seed),
        target=target,
        config=config,
        channel=moment() if method == "moment" else None,
    )
    jax.block_until_ready(result.perturbation.value)
    facts = {
        "goal": goal,
        "method": method,
        "seed": seed,
        **clips.facts,
        "num_passes": int(result.num_passes),
        "attack_s": round(time.perf_counter() - began),
        "attack_cpu_s": round(time.process_time() - began_cpu),
    }
    front = [(config.target_asr, result.train_asr, result.perturbation.value)]
    if result.front is not None:
        columns = result.front
        front = zip(columns.asr_levels, columns.train_asr, columns.values, strict=True)
    for asked, train_asr, value in front:
        if not np.any(value):  # A rate that was not reached.
            continue
        perturbation = dataclasses.replace(result.perturbation, value=value)
        sound = np.asarray(perturbation_waveform(perturbation))
        folder = Path(SOUNDS.value) / f"{name}-{float(asked):.2f}"
        folder.mkdir(parents=True, exist_ok=True)
        write_wav(folder / "perturbation.wav", sound, sample_rate_hz=RATE_HZ)
        rates = {"asked": rounded(asked), "train_asr": rounded(train_asr)}
        (folder / "facts.json").write_text(json.dumps(facts | rates))


def evaluate(
    sound: np.ndarray, clips: np.ndarray, goal: str, seed: int
) -> dict[str, Any]:
    """Returns levels, and what the official runtime says with the sound and controls.

    Args:
        sound: `[N]`, added to each clip.
        clips: `[M, N]` raw recordings.
        goal: One of `GOALS`.
        seed: Of the controls.
    """
    rng = np.random.default_rng(seed)
    white = levels.rms(sound) * rng.standard_normal(clips.shape).astype(np.float32)
    signal = attacks.Perturbation(jnp.asarray(sound), "signal")
    turned = [
        np.asarray(controls.same_spectrum(signal, key).value)
        for key in jax.random.split(jax.random.key(seed), NUM_DRAWS)
    ]
    # Looped, and begun at another moment for each clip.
    starts = rng.integers(0, sound.size, len(clips))
    shifted = np.stack([np.roll(sound, start) for start in starts])
    clean = probabilities(clips)
    perturbed = as_pcm16(clips + sound)
    probability = probabilities(perturbed)
    check_whole(perturbed[:NUM_WHOLE], probability[:NUM_WHOLE])
    jit = probabilities(perturbed, onnx=False)
    snr_db = levels.snr_ac_db(clips, np.broadcast_to(sound, clips.shape))
    coloured = [
        outcome(probabilities(as_pcm16(clips + other)), clean, goal) for other in turned
    ]
    return {
        "snr_ac_db": rounded(np.nanmean(snr_db), 2),
        "snr_ac_db_median": rounded(np.nanmedian(snr_db), 2),
        "num_silent": int(np.sum(np.isnan(snr_db))),
        "rms_dbfs": rounded(levels.spl_db(sound), 2),
        "peak_dbfs": rounded(20 * math.log10(np.max(np.abs(sound))), 2),
        "clean": outcome(clean, clean, goal),
        "sound": outcome(probability, clean, goal),
        "sound_jit": outcome(jit, clean, goal),
        "shifted": outcome(probabilities(as_pcm16(clips + shifted)), clean, goal),
        "white_noise": outcome(probabilities(as_pcm16(clips + white)), clean, goal),
        "same_spectrum": {
            name: rounded(np.mean([draw[name] for draw in coloured]))
            for name in ("clips", "timestamps", "chunks")
        },
    }


def by_moment(sound: np.ndarray, clips: np.ndarray, seed: int) -> dict[str, float]:
    """Share of missed clips by the moment at which the looped sound began."""
    rng = np.random.default_rng(seed)
    clips = clips[rng.permutation(len(clips))[:NUM_MOMENT_CLIPS]]
    clean = probabilities(clips)
    shares = [
        outcome(probabilities(as_pcm16(clips + np.roll(sound, start))), clean, "miss")
        for start in rng.choice(sound.size, NUM_MOMENTS, replace=False)
    ]
    clips_missed = np.sort([share["clips"] for share in shares])
    return {
        "mean": rounded(np.mean(clips_missed)),
        "worst_decile": rounded(np.mean(clips_missed[: NUM_MOMENTS // 10])),
    }


def as_pcm16(waveform: np.ndarray) -> np.ndarray:
    return to_waveform(to_pcm16(waveform))


def probabilities(clips: np.ndarray, *, onnx: bool = True) -> np.ndarray:
    """Probabilities `[M, T]` of the official runtime."""
    model = silero_vad.load_silero_vad(onnx=onnx)
    with torch.no_grad():
        return model.audio_forward(torch.from_numpy(clips), RATE_HZ).numpy()


def timestamps(row: np.ndarray) -> list[dict[str, int]]:
    return silero_vad.get_speech_timestamps_from_probs(
        row.tolist(), audio_length_samples=RATE_HZ
    )


def check_whole(clips: np.ndarray, probability: np.ndarray) -> None:
    """Checks that clips one by one give the timestamps of their batch."""
    model = silero_vad.load_silero_vad(onnx=True)
    for clip, row in zip(clips, probability, strict=True):
        whole = silero_vad.get_speech_timestamps(torch.from_numpy(clip), model)
        if whole != timestamps(row):
            raise SystemExit(f"timestamps: {whole}, {timestamps(row)} in a batch")


def outcome(probability: np.ndarray, clean: np.ndarray, goal: str) -> dict[str, Any]:
    """Returns the shares that are as the goal has it.

    Returns:
        "clips": of clips, speech being any chunk above the threshold. "timestamps":
        of clips, speech being any timestamps at the official defaults. "chunks": of
        the chunks that were not so in the clean recordings.
    """
    wants_speech = GOALS[goal] == 1
    is_speech = probability > deployed.THRESHOLD
    reached = np.any(is_speech, axis=1) == wants_speech
    stamped = np.array([bool(timestamps(row)) for row in probability])
    others = (clean > deployed.THRESHOLD) != wants_speech
    ends = wilson_interval(int(np.sum(reached)), len(reached))
    return {
        "clips": rounded(np.mean(reached)),
        "clips_ci95": [rounded(end) for end in ends],
        "timestamps": rounded(np.mean(stamped == wants_speech)),
        "chunks": rounded(np.mean(is_speech[others] == wants_speech)),
    }


def rounded(number: Any, digits: int = 4) -> float:
    return round(float(number), digits)


if __name__ == "__main__":
    app.run(main)
