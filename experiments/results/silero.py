"""One sound that makes Silero VAD miss speech, evaluated by the official runtime.

    python experiments/results/silero.py --data_dir=speech_commands_test_set_v0.02

For each seed the speakers are split anew. The sound is crafted on clips of the training
speakers, written as perturbation.wav, read again, added to the raw recordings of the
test speakers and rounded to 16 bits. Whether the sums have speech is decided by the
package silero-vad alone. Settings were chosen with --evaluate=validation.
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
from uap_jax.audio.files import read_audio, to_pcm16, write_wav
from uap_jax.bridges.deployed import silero_vad as deployed
from uap_jax.data.dataset import Dataset, to_waveform, unit_hash
from uap_jax.data.decoding import Decoding
from uap_jax.data.speech_commands import SILENCE, load_speech_commands
from uap_jax.evaluation import controls
from uap_jax.evaluation.intervals import wilson_interval
from uap_jax.files import default_cache_dir

DATA_DIR = flags.DEFINE_string(
    "data_dir", None, "The official test set of Speech Commands.", required=True
)
OUTPUT = flags.DEFINE_string(
    "output", str(Path(__file__).parent / "silero_vad"), "Where the results go."
)
CACHE_DIR = flags.DEFINE_string("cache_dir", None, "Default: that of runs.")
SEEDS = flags.DEFINE_multi_integer("seed", [0, 1, 2], "Of the speakers and the attack.")
METHODS = flags.DEFINE_multi_string("method", ["decoupled", "penalty"], "Attacks.")
EVALUATE = flags.DEFINE_enum(
    "evaluate", "test", ["test", "validation"], "Whose speakers are evaluated."
)
SET = flags.DEFINE_multi_string("set", [], "key=value, a setting of the attack.")

NUM_ATTACK_CLIPS = 1000
VALIDATION_SHARE, TEST_SHARE = 0.1, 0.3
MUTED = 0  # the class "no speech"
CONFIGS = {
    "decoupled": DecoupledConfig(asr_levels=(0.3, 0.5, 0.7, 0.8, 0.95), target_asr=0.9),
    "penalty": PenaltyConfig(),
}
NUM_DRAWS = 3  # of noise of the same spectrum, one sound each


class Clips(NamedTuple):
    train: np.ndarray  # [M, N] waveforms of speech
    test: np.ndarray


def main(_: list[str]) -> None:
    warnings.simplefilter("ignore")
    cache_dir = Path(CACHE_DIR.value or default_cache_dir())
    environment.cache_compilations(cache_dir / "compiled")
    dataset = load_speech_commands(DATA_DIR.value, Decoding(cache_dir / "corpora"))
    runs = []
    for seed in SEEDS.value:
        clips = split(dataset, seed)
        for method in METHODS.value:
            runs += run(method, clips, seed)
    Path(OUTPUT.value).mkdir(parents=True, exist_ok=True)
    report = {"runs": runs, "hardware": environment.hardware()}
    Path(OUTPUT.value, "result.json").write_text(json.dumps(report, indent=1))


def split(dataset: Dataset, seed: int) -> Clips:
    """Splits recordings of words by speakers, anew for each seed."""
    draws = np.array([unit_hash(f"{seed}/{group}") for group in dataset.groups])
    is_speech = np.array(dataset.class_names)[dataset.labels] != SILENCE
    is_test = draws < TEST_SHARE
    is_validation = ~is_test & (draws < TEST_SHARE + VALIDATION_SHARE)
    train = np.flatnonzero(is_speech & ~is_test & ~is_validation)
    train = np.random.default_rng(seed).permutation(train)[:NUM_ATTACK_CLIPS]
    evaluated = is_test if EVALUATE.value == "test" else is_validation
    test = np.flatnonzero(is_speech & evaluated)
    speakers = [len(np.unique(dataset.groups[part])) for part in (train, test)]
    print(f"seed {seed}: {len(train)}, {len(test)} clips; speakers {speakers}")
    return Clips(*(to_waveform(np.asarray(dataset.clips)[i]) for i in (train, test)))


def run(method: str, clips: Clips, seed: int) -> list[dict[str, Any]]:
    classifier = deployed.load()
    config = CONFIGS[method]
    for setting in SET.value:
        key, value = setting.split("=")
        if hasattr(config, key):
            value = json.loads(value)
            value = tuple(value) if isinstance(value, list) else value
            config = dataclasses.replace(config, **{key: value})
    x, _ = to_box(jnp.asarray(clips.train), scaling="fixed")
    labels = jnp.ones(len(x), jnp.int32)
    started = time.perf_counter(), time.process_time()
    result = getattr(attacks, method)(
        classifier.logits,
        classifier.variables,
        x,
        labels,
        key=jax.random.key(seed),
        target=MUTED,
        config=config,
    )
    jax.block_until_ready(result.perturbation.value)
    seconds = time.perf_counter() - started[0], time.process_time() - started[1]
    print(
        f"{method}: {int(result.num_passes)} passes, {seconds[0]:.0f} s, "
        f"CPU {seconds[1]:.0f} s, train ASR {float(result.train_asr):.3f}"
    )
    values = [(result.perturbation.value, result.train_asr, config.target_asr)]
    if result.front is not None:
        values = list(
            zip(
                result.front.values,
                result.front.train_asr,
                result.front.asr_levels,
                strict=True,
            )
        )
    runs = []
    for value, train_asr, asked in values:
        perturbation = dataclasses.replace(result.perturbation, value=value)
        name = f"{method}-seed{seed}-{float(asked):.2f}"
        facts = {
            "method": method,
            "seed": seed,
            "asked": round(float(asked), 3),
            "train_asr": round(float(train_asr), 4),
            "num_passes": int(result.num_passes),
            "attack_s": round(seconds[0], 1),
        }
        runs.append(facts | evaluate(perturbation, clips.test, seed, name))
        print(json.dumps(runs[-1]))
    return runs


def evaluate(
    perturbation: attacks.Perturbation, clips: np.ndarray, seed: int, name: str
) -> dict[str, Any]:
    """Returns levels, and what the official runtime misses with each sound."""
    path = Path(OUTPUT.value) / name / "perturbation.wav"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_wav(
        path, np.asarray(perturbation_waveform(perturbation)), sample_rate_hz=16_000
    )
    sound = read_audio(path, sample_rate_hz=16_000)
    key = jax.random.key(seed + 1000)
    rng = np.random.default_rng(seed)
    in_signal = attacks.Perturbation(jnp.asarray(sound), "signal")
    phases = [
        np.asarray(controls.same_spectrum(in_signal, k).value)
        for k in jax.random.split(key, NUM_DRAWS)
    ]
    white = levels.rms(sound) * rng.standard_normal(clips.shape).astype(np.float32)
    clean = probabilities(clips)
    perturbed = as_pcm16(clips + sound)
    snr_db = levels.snr_ac_db(clips, np.broadcast_to(sound, clips.shape))
    spectra = [missed(probabilities(as_pcm16(clips + p)), clean) for p in phases]
    return {
        "snr_ac_db": round(float(np.nanmean(snr_db)), 2),
        "snr_ac_db_median": round(float(np.nanmedian(snr_db)), 2),
        "rms_dbfs": round(20 * math.log10(float(levels.rms(sound))), 2),
        "peak_dbfs": round(20 * math.log10(float(np.max(np.abs(sound)))), 2),
        "clean": missed(clean, clean),
        "sound": missed(probabilities(perturbed), clean),
        "white_noise": missed(probabilities(as_pcm16(clips + white)), clean),
        "same_spectrum": {
            name: round(float(np.mean([m[name] for m in spectra])), 4)
            for name in ("no_chunk", "no_timestamps", "chunks")
        },
    }


def as_pcm16(waveform: np.ndarray) -> np.ndarray:
    return to_waveform(to_pcm16(waveform))


def probabilities(clips: np.ndarray, *, onnx: bool = True) -> np.ndarray:
    """Probabilities `[M, T]` of the official runtime."""
    model = silero_vad.load_silero_vad(onnx=onnx)
    with torch.no_grad():
        return model.audio_forward(torch.from_numpy(clips), 16_000).numpy()


def missed(probability: np.ndarray, clean: np.ndarray) -> dict[str, Any]:
    """Shares of speech that is missed."""
    no_chunk = np.all(probability <= deployed.THRESHOLD, axis=1)
    timestamps = [
        silero_vad.get_speech_timestamps_from_probs(
            row.tolist(), audio_length_samples=16_000
        )
        for row in probability
    ]
    was_speech = clean > deployed.THRESHOLD
    is_missed = probability[was_speech] <= deployed.THRESHOLD
    return {
        "no_chunk": round(float(np.mean(no_chunk)), 4),
        "no_chunk_ci95": [
            round(end, 4) for end in wilson_interval(int(no_chunk.sum()), len(no_chunk))
        ],
        "no_timestamps": round(float(np.mean([not t for t in timestamps])), 4),
        "chunks": round(float(np.mean(is_missed)), 4),
    }


if __name__ == "__main__":
    app.run(main)
