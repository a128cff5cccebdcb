"""The built-in corpus: the paper's 32 classes, spoken by espeak-ng."""

import dataclasses
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soxr

from uap_jax.data.dataset import Dataset, ProgressFn, Splits
from uap_jax.data.speech_commands import PAPER32
from uap_jax.data.synthetic import espeak
from uap_jax.data.synthetic.recording import (
    NOISE_KINDS,
    NUM_SAMPLES,
    SAMPLE_RATE_HZ,
    Conditions,
    check_at_least,
    make_noise,
    record_silence,
    record_word,
    to_pcm,
)
from uap_jax.data.synthetic.rendered import RenderedClips, in_threads
from uap_jax.files import fingerprint

CLASS_NAMES = PAPER32

# In the fingerprint; raised when the same settings give other clips.
_VERSION = 3

# Of the clips of each class, for validation and for the test.
_HELD_OUT_CLIPS = 0.1
# Of the voices: with fewer, two or three odd ones would decide the accuracy.
_HELD_OUT_VOICES = 0.15
_LONGEST_WORD_S = 0.92
_NUM_NOISE_CLIPS = 64
_BABBLE_S = 12
_NUM_BABBLE_TALKERS = 6

# Seeds are (seed, stream, ...), so streams are independent.
_PLAN, _CLIP, _BABBLE, _NOISE = range(4)

# Words that are not a class. Half are heard in every split, the others in one.
_UNKNOWN_WORDS = {
    "any": "backward forward follow learn visual water paper window garden music "
    "letter number morning people table open light answer school apple under maybe",
    "train": "river summer doctor market yellow mother street button silver kitchen "
    "hello green",
    "validation": "planet winter coffee great women again",
    "test": "pencil orange travel black money around",
}

_BABBLE_SENTENCES = (
    "we should have taken the early train but nobody had bought the tickets",
    "she told them about the weather in the mountains and the long road home",
    "he asked whether the meeting could be moved to the end of the week",
    "there was hardly any bread left so they cooked some rice instead",
    "the children played behind the old church until the lamps were lit",
    "what they wanted most was a quiet room and a little more time",
)


def load_synthetic_speech(
    *,
    cache_dir: str | Path,
    num_clips_per_class: int = 300,
    seed: int = 0,
    conditions: Conditions | None = None,
    progress: ProgressFn | None = None,
) -> Dataset:
    """Returns the built-in corpus; clips are rendered once, when they are first read.

    The same arguments give the same bytes. No voice of the validation or the test is
    heard in training; a voice is a group.

    Args:
        cache_dir: Folder of the caches.
        num_clips_per_class: At least 3: one a split.
        seed: Random seed of the speakers, their split and every disturbance.
        conditions: Difficulty of the recordings.
        progress: Called as progress("synthetic speech", done, total).

    Returns:
        `32 * num_clips_per_class` int16 clips of 16,000 samples at 16 kHz, class by
        class, with splits of about 80, 10 and 10 %, and background noise made of
        training voices only.

    Raises:
        MissingDemoError: espeak-ng is not installed.
        RuntimeError: A voice said nothing.
        ValueError: A setting is out of its range.
    """
    check_at_least(len(Splits._fields), num_clips_per_class=num_clips_per_class)
    check_at_least(0, seed=seed)
    conditions = conditions or Conditions()
    key = fingerprint(
        *("synthetic_speech", _VERSION, espeak.espeak_version()),
        *(num_clips_per_class, seed, dataclasses.asdict(conditions)),
    )

    variants = split_variants(seed)
    turns = _plan(variants, num_clips_per_class, seed, conditions)
    babble = functools.cache(lambda: _make_babble(variants, seed))

    def render(indices: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        labels, numbers = np.divmod(indices, len(turns))

        def render_turn(number: int) -> list[tuple[int, np.ndarray]]:
            turn, chosen = turns[number], labels[numbers == number]
            clips = _render(
                turn, chosen.tolist(), babble()[turn.split], seed, conditions
            )
            return list(zip(chosen * len(turns) + number, clips, strict=True))

        babble()
        for rendered in in_threads(render_turn, np.unique(numbers).tolist()):
            yield from rendered

    def make_noises(_: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        rng = np.random.default_rng([seed, _NOISE])
        for index, kind in enumerate(np.resize(NOISE_KINDS, _NUM_NOISE_CLIPS)):
            yield index, to_pcm(make_noise(kind, rng, babble()["train"]), -3.0)

    folder = Path(cache_dir) / f"synthetic_speech-{key}"
    named = [_describe(turn, name) for name in CLASS_NAMES for turn in turns]
    groups, names = map(np.array, zip(*named, strict=True))
    return Dataset(
        name="synthetic_speech",
        clips=RenderedClips(
            folder / "clips.npy",
            (len(CLASS_NAMES) * len(turns), NUM_SAMPLES),
            render,
            progress=progress,
            what="synthetic speech",
        ),
        labels=np.repeat(np.arange(len(CLASS_NAMES), dtype=np.int32), len(turns)),
        class_names=CLASS_NAMES,
        groups=groups,
        names=names,
        sample_rate_hz=SAMPLE_RATE_HZ,
        fingerprint=key,
        official_splits=np.array([turn.split for turn in turns] * len(CLASS_NAMES)),
        noise=RenderedClips(
            folder / "noise.npy", (_NUM_NOISE_CLIPS, NUM_SAMPLES), make_noises
        ),
    )


def split_variants(seed: int) -> dict[str, tuple[str, ...]]:
    """Returns the voice variants of each split; none is in two of them."""
    names = np.random.default_rng([seed, _PLAN]).permutation(espeak.VARIANTS).tolist()
    num_held_out = round(_HELD_OUT_VOICES * len(names))
    return {
        "train": tuple(names[2 * num_held_out :]),
        "validation": tuple(names[:num_held_out]),
        "test": tuple(names[num_held_out : 2 * num_held_out]),
    }


class _Turn(NamedTuple):
    """One clip of every class, spoken by one speaker."""

    split: str
    number: int  # Of the clip within its class.
    unknown_word: str
    voice: espeak.Voice


def _plan(
    variants: dict[str, tuple[str, ...]],
    num_clips_per_class: int,
    seed: int,
    conditions: Conditions,
) -> list[_Turn]:
    rng = np.random.default_rng([seed, _PLAN, 1])
    num_held_out = max(1, round(_HELD_OUT_CLIPS * num_clips_per_class))
    num_train = num_clips_per_class - 2 * num_held_out
    turns: list[_Turn] = []
    for split, num_clips in zip(
        Splits._fields, (num_train, num_held_out, num_held_out), strict=True
    ):
        words = f"{_UNKNOWN_WORDS['any']} {_UNKNOWN_WORDS[split]}".split()
        unknown = rng.permutation(np.resize(words, num_clips))
        voices = np.resize(rng.permutation(variants[split]), num_clips)
        for word, variant in zip(unknown.tolist(), voices.tolist(), strict=True):
            voice = espeak.Voice(
                str(rng.choice(espeak.ACCENTS)),
                variant,
                rng.uniform(*conditions.rate_wpm),
                rng.uniform(*conditions.pitch),
                rng.uniform(*conditions.pitch_range),
            )
            turns.append(_Turn(split, len(turns), word, voice))
    return turns


def _describe(turn: _Turn, class_name: str) -> tuple[str, str]:
    """Returns the group and the name of a clip."""
    group, voice = turn.voice.variant, str(turn.voice).replace(" ", "_")
    if class_name == "_silence_":
        group, voice = f"noise-{turn.split}", "noise"
    return group, f"synthetic/{class_name}/{voice}_{turn.number}"


def _render(
    turn: _Turn,
    labels: list[int],
    babble: np.ndarray,
    seed: int,
    conditions: Conditions,
) -> list[np.ndarray]:
    """Returns clips of a turn, `[N]` int16 each; `labels` ascend."""
    rngs, words = {}, {}
    with espeak.fresh_synthesizer() as speak:
        # What a word sounds like depends on all that were spoken before.
        for label, class_name in enumerate(CLASS_NAMES[: labels[-1] + 1]):
            rngs[label] = rng = np.random.default_rng([seed, _CLIP, label, turn.number])
            if class_name != "_silence_":
                words[label] = espeak.say_word(
                    speak,
                    turn.unknown_word if class_name == "_unknown_" else class_name,
                    turn.voice._replace(
                        rate_wpm=turn.voice.rate_wpm
                        * rng.uniform(*conditions.rate_change),
                        pitch=turn.voice.pitch + rng.uniform(*conditions.pitch_change),
                    ),
                    longest_s=_LONGEST_WORD_S,
                )
    clips = []
    for label in labels:
        if label not in words:
            clips.append(record_silence(rngs[label], babble, conditions))
            continue
        word = soxr.resample(words[label], espeak.SAMPLE_RATE_HZ, SAMPLE_RATE_HZ)
        clips.append(record_word(word[:NUM_SAMPLES], rngs[label], babble, conditions))
    return clips


def _make_babble(
    variants: dict[str, tuple[str, ...]], seed: int
) -> dict[str, np.ndarray]:
    """Returns for each split some seconds of several of its voices at once."""
    num_samples = _BABBLE_S * espeak.SAMPLE_RATE_HZ
    babble = {}
    for index, split in enumerate(Splits._fields):
        rng = np.random.default_rng([seed, _BABBLE, index])
        total = np.zeros(num_samples)
        with espeak.fresh_synthesizer() as speak:
            for variant in rng.permutation(variants[split])[:_NUM_BABBLE_TALKERS]:
                sentences = []
                for sentence in rng.permutation(_BABBLE_SENTENCES).tolist():
                    accent = str(rng.choice(espeak.ACCENTS))
                    rate_wpm, pitch = rng.uniform(140, 200), rng.uniform(30, 70)
                    voice = espeak.Voice(accent, str(variant), rate_wpm, pitch)
                    sentences.append(speak(sentence, voice))
                talk = np.resize(np.concatenate(sentences), num_samples).astype(float)
                talk *= rng.uniform(0.5, 1.0) / np.sqrt(np.sum(np.square(talk)))
                total += np.roll(talk, rng.integers(num_samples))
        total = soxr.resample(total, espeak.SAMPLE_RATE_HZ, SAMPLE_RATE_HZ)
        babble[split] = total.astype(np.float32)
    return babble
