"""The built-in corpus: the paper's 32 classes, spoken by espeak-ng."""

import dataclasses
from pathlib import Path
from typing import NamedTuple

import numpy as np

from uap_jax.data.cache import load_or_build
from uap_jax.data.dataset import Dataset, ProgressFn
from uap_jax.data.synthetic import espeak as _espeak
from uap_jax.data.synthetic.espeak import MissingDemoError
from uap_jax.data.synthetic.recording import (
    NOISE_KINDS,
    SAMPLE_RATE_HZ,
    Conditions,
    make_noise,
    to_pcm,
)
from uap_jax.data.synthetic.rendering import (
    Job,
    Speaker,
    Task,
    Utterance,
    default_num_workers,
    render,
)
from uap_jax.files import fingerprint

__all__ = [
    "CLASS_NAMES",
    "Conditions",
    "MissingDemoError",
    "load_synthetic_speech",
    "render_corpus",
]

# In the order of the paper's Table 11.
CLASS_NAMES = (
    *("_silence_", "_unknown_", "sheila", "nine", "stop", "bed", "four", "six"),
    *("down", "bird", "marvin", "cat", "off", "right", "seven", "eight", "up"),
    *("three", "happy", "go", "zero", "on", "wow", "dog", "yes", "five", "one"),
    *("tree", "house", "two", "left", "no"),
)

# To be raised whenever the same settings give other clips.
_VERSION = 3

_SPLITS = ("train", "validation", "test")
# Of the clips of each class, for validation and for the test.
_HELD_OUT_CLIPS = 0.1
# Of the voices: of fewer, two or three odd ones would decide the accuracy.
_HELD_OUT_VOICES = 0.15
_NUM_NOISE_CLIPS = 64
_BABBLE_S = 12
_NUM_BABBLE_TALKERS = 6

# Seeds are (seed; stream, ...): the streams never meet.
_PLAN, _CLIP, _BABBLE, _NOISE = range(4)

# Words that are no class. Half are heard in every split, the others in one.
_UNKNOWN_WORDS = {
    "any": (
        *("backward", "forward", "follow", "learn", "visual", "water", "paper"),
        *("window", "garden", "music", "letter", "number", "morning", "people"),
        *("table", "open", "light", "answer", "school", "apple", "under", "maybe"),
    ),
    "train": (
        *("river", "summer", "doctor", "market", "yellow", "mother", "street"),
        *("button", "silver", "kitchen", "hello", "green"),
    ),
    "validation": ("planet", "winter", "coffee", "great", "women", "again"),
    "test": ("pencil", "orange", "travel", "black", "money", "around"),
}

_BABBLE_SENTENCES = (
    "we should have taken the early train but nobody had bought the tickets",
    "she told them about the weather in the mountains and the long road home",
    "he asked whether the meeting could be moved to the end of the week",
    "there was hardly any bread left so they cooked some rice instead",
    "the children played behind the old church until the lamps were lit",
    "what they wanted most was a quiet room and a little more time",
)


class _Plan(NamedTuple):
    jobs: list[Job]
    labels: np.ndarray
    groups: np.ndarray
    names: np.ndarray
    splits: np.ndarray


def load_synthetic_speech(
    *,
    cache_dir: str | Path,
    num_clips_per_class: int = 300,
    seed: int = 0,
    num_workers: int | None = None,
    progress: ProgressFn | None = None,
) -> Dataset:
    """Returns the built-in corpus, rendered once and then read from the cache.

    Args:
        cache_dir: Folder of the caches; the corpus takes a folder of its own there.
        num_clips_per_class: As for `render_corpus`.
        seed: As for `render_corpus`.
        num_workers: As for `render_corpus`.
        progress: As for `render_corpus`.

    Returns:
        As `render_corpus`, with the clips in a memory map.

    Raises:
        MissingDemoError: espeak-ng is not installed.
        ValueError: A setting is out of its range.
    """
    settings = {"num_clips_per_class": num_clips_per_class, "seed": seed}
    key = _corpus_fingerprint(conditions=Conditions(), **settings)

    def build(folder: Path) -> Dataset:
        return render_corpus(
            **settings,
            num_workers=num_workers,
            scratch_dir=folder,
            progress=progress,
        )

    return load_or_build(Path(cache_dir) / f"synthetic_speech-{key}", build)


def render_corpus(
    *,
    num_clips_per_class: int = 300,
    seed: int = 0,
    conditions: Conditions | None = None,
    num_workers: int | None = None,
    scratch_dir: Path | None = None,
    progress: ProgressFn | None = None,
) -> Dataset:
    """Speaks, disturbs and labels every clip of the corpus.

    The same arguments give the same bytes, whatever the number of workers. No voice
    of the validation or the test is heard in training; a voice is a group.

    Args:
        num_clips_per_class: Clips of each class, at least 3: one a split.
        seed: Chooses the speakers, their split and every disturbance.
        conditions: How hard the recordings are.
        num_workers: Processes; by default one a core, at most 8.
        scratch_dir: Where several processes leave their clips, 32 kB each, until all
            are done; None takes the system's folder for temporary files.
        progress: Called with the number of clips done.

    Returns:
        `32 * num_clips_per_class` int16 clips of 16,000 samples at 16 kHz, class by
        class, with splits of about 80, 10 and 10 %, and background noise made of
        training voices only.

    Raises:
        MissingDemoError: espeak-ng is not installed.
        RuntimeError: A voice said nothing, or a worker failed.
        ValueError: A setting is out of its range.
    """
    if num_clips_per_class < len(_SPLITS):
        raise ValueError(
            f"num_clips_per_class: expected at least {len(_SPLITS)}, one a split, "
            f"got {num_clips_per_class}"
        )
    if seed < 0:
        raise ValueError(f"seed: expected at least 0, got {seed}")
    if num_workers is not None and num_workers < 1:
        raise ValueError(f"num_workers: expected at least 1, got {num_workers}")
    conditions = conditions or Conditions()
    variants = split_variants(seed)
    plan = _plan_corpus(variants, num_clips_per_class, seed, conditions)
    babble = _make_babble(variants, seed)
    task = Task(plan.jobs, babble, conditions, seed)
    return Dataset(
        name="synthetic_speech",
        clips=render(
            task,
            num_clips=len(plan.labels),
            num_workers=num_workers or default_num_workers(),
            scratch_dir=scratch_dir,
            progress=progress,
        ),
        labels=plan.labels,
        class_names=CLASS_NAMES,
        groups=plan.groups,
        names=plan.names,
        sample_rate_hz=SAMPLE_RATE_HZ,
        fingerprint=_corpus_fingerprint(
            num_clips_per_class=num_clips_per_class, seed=seed, conditions=conditions
        ),
        official_splits=plan.splits,
        noise=_make_noise_clips(babble["train"], seed),
    )


def split_variants(seed: int) -> dict[str, tuple[str, ...]]:
    """Returns the voice variants of each split; none is in two of them."""
    names = np.random.default_rng([seed, _PLAN]).permutation(_espeak.VARIANTS).tolist()
    num_held_out = round(_HELD_OUT_VOICES * len(names))
    return {
        "train": tuple(names[2 * num_held_out :]),
        "validation": tuple(names[:num_held_out]),
        "test": tuple(names[num_held_out : 2 * num_held_out]),
    }


def _plan_corpus(
    variants: dict[str, tuple[str, ...]],
    num_clips_per_class: int,
    seed: int,
    conditions: Conditions,
) -> _Plan:
    rng = np.random.default_rng([seed, _PLAN, 1])
    num_held_out = max(1, round(_HELD_OUT_CLIPS * num_clips_per_class))
    num_in_split = {
        "train": num_clips_per_class - 2 * num_held_out,
        "validation": num_held_out,
        "test": num_held_out,
    }
    shape = (len(CLASS_NAMES), num_clips_per_class)
    groups = np.empty(shape, "<U40")
    names = np.empty(shape, "<U80")
    splits = np.repeat(list(num_in_split), list(num_in_split.values()))
    jobs = []
    start = 0
    for split, num_clips in num_in_split.items():
        silence = Job(split, None, [])
        jobs.append(silence)
        words = (*_UNKNOWN_WORDS["any"], *_UNKNOWN_WORDS[split])
        unknown = rng.permutation(np.resize(words, num_clips))
        voices = np.resize(rng.permutation(variants[split]), num_clips)
        for at, variant in enumerate(voices):
            number = start + at
            speaker = Speaker(
                str(rng.choice(_espeak.ACCENTS)),
                str(variant),
                rng.uniform(*conditions.rate_wpm),
                rng.uniform(*conditions.pitch),
                rng.uniform(*conditions.pitch_range),
            )
            spoken = Job(split, speaker, [])
            jobs.append(spoken)
            voice = f"{speaker.accent}+{variant}".replace(" ", "_")
            for label, class_name in enumerate(CLASS_NAMES):
                silent = class_name == "_silence_"
                word = str(unknown[at]) if class_name == "_unknown_" else class_name
                groups[label, number] = f"noise-{split}" if silent else str(variant)
                names[label, number] = (
                    f"synthetic/{class_name}/{'noise' if silent else voice}_{number}"
                )
                (silence if silent else spoken).utterances.append(
                    Utterance(
                        row=label * num_clips_per_class + number,
                        seed_key=(seed, _CLIP, label, number),
                        word=word,
                    )
                )
        start += num_clips
    return _Plan(
        jobs,
        np.repeat(np.arange(len(CLASS_NAMES), dtype=np.int32), num_clips_per_class),
        groups.ravel(),
        names.ravel(),
        np.tile(splits, len(CLASS_NAMES)),
    )


def _make_noise_clips(babble: np.ndarray, seed: int) -> np.ndarray:
    rng = np.random.default_rng([seed, _NOISE])
    kinds = np.resize(NOISE_KINDS, _NUM_NOISE_CLIPS)
    return np.stack([to_pcm(make_noise(kind, rng, babble), -3.0) for kind in kinds])


def _make_babble(
    variants: dict[str, tuple[str, ...]], seed: int
) -> dict[str, np.ndarray]:
    """Returns for each split some seconds of several of its voices at once."""
    import soxr

    num_samples = _BABBLE_S * _espeak.SAMPLE_RATE_HZ
    babble = {}
    for index, split in enumerate(_SPLITS):
        rng = np.random.default_rng([seed, _BABBLE, index])
        total = np.zeros(num_samples)
        with _espeak.fresh_synthesizer() as speak:
            for variant in rng.permutation(variants[split])[:_NUM_BABBLE_TALKERS]:
                sentences = [
                    speak(
                        sentence,
                        accent=str(rng.choice(_espeak.ACCENTS)),
                        variant=str(variant),
                        rate_wpm=rng.uniform(140, 200),
                        pitch=rng.uniform(30, 70),
                        pitch_range=50,
                    )
                    for sentence in rng.permutation(_BABBLE_SENTENCES)
                ]
                talk = np.resize(np.concatenate(sentences), num_samples).astype(float)
                talk *= rng.uniform(0.5, 1.0) / np.sqrt(np.sum(np.square(talk)))
                total += np.roll(talk, rng.integers(num_samples))
        babble[split] = soxr.resample(
            total, _espeak.SAMPLE_RATE_HZ, SAMPLE_RATE_HZ
        ).astype(np.float32)
    return babble


def _corpus_fingerprint(
    *, num_clips_per_class: int, seed: int, conditions: Conditions
) -> str:
    return fingerprint(
        "synthetic_speech",
        _VERSION,
        _espeak.espeak_version(),
        num_clips_per_class,
        seed,
        dataclasses.asdict(conditions),
    )
