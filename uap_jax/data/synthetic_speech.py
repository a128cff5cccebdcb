"""The built-in corpus: the paper's 32 classes, spoken by espeak-ng."""

import contextlib
import dataclasses
import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from uap_jax.data import _espeak
from uap_jax.data._espeak import MissingDemoError
from uap_jax.data.cache import fingerprint, load_or_build
from uap_jax.data.dataset import Dataset, ProgressFn

__all__ = [
    "CLASS_NAMES",
    "Conditions",
    "MissingDemoError",
    "load_synthetic_speech",
    "render_corpus",
]

SAMPLE_RATE_HZ = 16000
NUM_SAMPLES = 16000

# In the order of the paper's Table 11.
CLASS_NAMES = (
    *("_silence_", "_unknown_", "sheila", "nine", "stop", "bed", "four", "six"),
    *("down", "bird", "marvin", "cat", "off", "right", "seven", "eight", "up"),
    *("three", "happy", "go", "zero", "on", "wow", "dog", "yes", "five", "one"),
    *("tree", "house", "two", "left", "no"),
)


@dataclasses.dataclass(frozen=True)
class Conditions:
    """How hard the recordings are; a pair is the range of a uniform draw.

    Attributes:
        rate_wpm: Words per minute of a speaker.
        pitch: Pitch of a speaker, 0..100; 50 is the voice's own.
        pitch_range: Liveliness of a speaker's pitch, 0..100.
        rate_change: Factor on the rate from clip to clip.
        pitch_change: Added to the pitch from clip to clip.
        snr_db: Speech over background, while the word lasts.
        level_dbfs: Peak of a clip with speech.
        silence_level_dbfs: Peak of a clip without.
        silence_zero_share: Share of clips without speech that are all zero.
        tilt_db_per_octave: Slope of the frequency response around 1 kHz.
        telephone_share: Share of clips with a band of about 300-3400 Hz.
        reverb_share: Share of clips spoken in a room.
        reverb_s: Time in which the room's echo decays by 60 dB.
        reverb_db: Energy of the echo over that of the direct sound.
    """

    rate_wpm: tuple[float, float] = (110.0, 190.0)
    pitch: tuple[float, float] = (25.0, 75.0)
    pitch_range: tuple[float, float] = (20.0, 80.0)
    rate_change: tuple[float, float] = (0.88, 1.14)
    pitch_change: tuple[float, float] = (-8.0, 8.0)
    snr_db: tuple[float, float] = (0.0, 35.0)
    level_dbfs: tuple[float, float] = (-20.0, -1.0)
    silence_level_dbfs: tuple[float, float] = (-60.0, -6.0)
    silence_zero_share: float = 0.1
    tilt_db_per_octave: tuple[float, float] = (-3.0, 3.0)
    telephone_share: float = 0.15
    reverb_share: float = 0.3
    reverb_s: tuple[float, float] = (0.1, 0.5)
    reverb_db: tuple[float, float] = (-12.0, 0.0)


# To be raised whenever the same settings give other clips.
_VERSION = 1

_SPLITS = ("train", "validation", "test")
# Of the clips of each class and of the families of voices, for validation and test.
_HELD_OUT_SHARE = 0.1
_LONGEST_WORD_S = 0.92
_NUM_NOISE_CLIPS = 64
_NOISE_KINDS = ("white", "pink", "brown", "low_passed", "hum", "babble")
_BABBLE_S = 12
_NUM_BABBLE_TALKERS = 6
_MAX_WORKERS = 8

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


class _Speaker(NamedTuple):
    accent: str
    variant: str
    rate_wpm: float
    pitch: float
    pitch_range: float


class _Utterance(NamedTuple):
    row: int
    seed_key: tuple[int, ...]
    word: str


class _Job(NamedTuple):
    """What one freshly loaded synthesizer says, in this order."""

    split: str
    speaker: _Speaker | None  # None is silence
    utterances: list[_Utterance]


class _Plan(NamedTuple):
    jobs: list[_Job]
    labels: np.ndarray
    groups: np.ndarray
    names: np.ndarray
    splits: np.ndarray


class _Task(NamedTuple):
    """Everything that the clips depend on."""

    jobs: list[_Job]
    babble: dict[str, np.ndarray]
    conditions: Conditions
    seed: int


def load_synthetic_speech(
    *,
    cache_dir: str | Path,
    num_clips_per_class: int = 200,
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
    num_clips_per_class: int = 200,
    seed: int = 0,
    conditions: Conditions | None = None,
    num_workers: int | None = None,
    scratch_dir: Path | None = None,
    progress: ProgressFn | None = None,
) -> Dataset:
    """Speaks, disturbs and labels every clip of the corpus.

    The same arguments give the same bytes, whatever the number of workers. Voices
    are split by family ("iven", "iven2"), so that no voice of the validation or the
    test is heard in training; a family is a group.

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
    task = _Task(plan.jobs, babble, conditions, seed)
    return Dataset(
        name="synthetic_speech",
        clips=_render(
            task,
            num_clips=len(plan.labels),
            num_workers=num_workers or _num_cores(),
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
    """Returns the voice variants of each split; no family is in two of them.

    Raises:
        MissingDemoError: espeak-ng is not installed.
    """
    families: dict[str, list[str]] = {}
    for variant in _espeak.list_variants():
        families.setdefault(_family(variant), []).append(variant)
    names = np.random.default_rng([seed, _PLAN]).permutation(sorted(families))
    num_held_out = round(_HELD_OUT_SHARE * len(names))
    chosen = {
        "validation": names[:num_held_out],
        "test": names[num_held_out : 2 * num_held_out],
        "train": names[2 * num_held_out :],
    }
    return {
        split: tuple(variant for name in chosen[split] for variant in families[name])
        for split in _SPLITS
    }


def _family(variant: str) -> str:
    """ "iven2" and "iven" are nearly one voice; "m1" and "m2" are two."""
    stem = variant.rstrip("0123456789")
    return variant if len(stem) == 1 else stem.removesuffix("Robot")


def _plan_corpus(
    variants: dict[str, tuple[str, ...]],
    num_clips_per_class: int,
    seed: int,
    conditions: Conditions,
) -> _Plan:
    rng = np.random.default_rng([seed, _PLAN, 1])
    num_held_out = max(1, round(_HELD_OUT_SHARE * num_clips_per_class))
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
        silence = _Job(split, None, [])
        jobs.append(silence)
        words = (*_UNKNOWN_WORDS["any"], *_UNKNOWN_WORDS[split])
        unknown = rng.permutation(np.resize(words, num_clips))
        voices = np.resize(rng.permutation(variants[split]), num_clips)
        for at, variant in enumerate(voices):
            number = start + at
            speaker = _Speaker(
                str(rng.choice(_espeak.ACCENTS)),
                str(variant),
                rng.uniform(*conditions.rate_wpm),
                rng.uniform(*conditions.pitch),
                rng.uniform(*conditions.pitch_range),
            )
            spoken = _Job(split, speaker, [])
            jobs.append(spoken)
            voice = f"{speaker.accent}+{variant}".replace(" ", "_")
            for label, class_name in enumerate(CLASS_NAMES):
                silent = class_name == "_silence_"
                word = str(unknown[at]) if class_name == "_unknown_" else class_name
                groups[label, number] = f"noise-{split}" if silent else _family(variant)
                names[label, number] = (
                    f"synthetic/{class_name}/{'noise' if silent else voice}_{number}"
                )
                (silence if silent else spoken).utterances.append(
                    _Utterance(
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


def _render(
    task: _Task,
    *,
    num_clips: int,
    num_workers: int,
    scratch_dir: Path | None,
    progress: ProgressFn | None,
) -> np.ndarray:
    def report(done: int) -> None:
        if progress is not None:
            progress("synthetic speech", done, num_clips)

    report(0)
    done = 0
    if num_workers == 1:
        clips = np.empty((num_clips, NUM_SAMPLES), np.int16)
        for job in task.jobs:
            clips[[utterance.row for utterance in job.utterances]] = _render_job(
                job, task
            )
            done += len(job.utterances)
            report(done)
        return clips
    with tempfile.TemporaryDirectory(prefix="workers-", dir=scratch_dir) as name:
        folder = Path(name)
        (folder / "task.pickle").write_bytes(pickle.dumps(task))
        (folder / "clips.raw").touch()
        for num_more in _run_workers(folder, num_workers):
            done += num_more
            report(done)
        clips = np.fromfile(folder / "clips.raw", np.int16)
    return clips.reshape(num_clips, NUM_SAMPLES)


def _run_workers(folder: Path, num_workers: int) -> Iterator[int]:
    """Runs the jobs in processes; yields the number of clips of each job done.

    multiprocessing would import the caller's main module again in each of them, JAX
    included, and fail in a script without a main guard.
    """
    code = "from uap_jax.data.synthetic_speech import _work; _work()"
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
    }
    read_end, write_end = os.pipe()
    processes = []
    with contextlib.ExitStack() as stack:
        lines = stack.enter_context(open(read_end))
        for index in range(num_workers):
            errors = stack.enter_context(open(folder / f"errors_{index}", "wb"))
            processes.append(
                subprocess.Popen(
                    [sys.executable, "-c", code, folder, str(index), str(num_workers)],
                    stdin=subprocess.DEVNULL,
                    stdout=write_end,
                    stderr=errors,
                    env=environment,
                )
            )
            stack.callback(processes[-1].wait)
            stack.callback(processes[-1].kill)
        os.close(write_end)
        for line in lines:
            yield int(line)
        for index, process in enumerate(processes):
            if process.wait():
                text = (folder / f"errors_{index}").read_text(errors="replace")
                reason = text.strip().rpartition("\n")[2]
                raise RuntimeError(f"synthetic speech: a worker failed: {reason}")


def _work() -> None:
    """What a worker process does: every so many-th job, one line out for each."""
    folder, index, num_workers = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    task: _Task = pickle.loads((folder / "task.pickle").read_bytes())
    # Written, not mapped: on a full disk a write raises and a mapped page kills.
    with open(folder / "clips.raw", "r+b") as file:
        for job in task.jobs[index::num_workers]:
            for utterance, clip in zip(
                job.utterances, _render_job(job, task), strict=True
            ):
                file.seek(utterance.row * clip.nbytes)
                file.write(clip.tobytes())
            file.flush()
            sys.stdout.write(f"{len(job.utterances)}\n")
            sys.stdout.flush()


def _render_job(job: _Job, task: _Task) -> list[np.ndarray]:
    """Returns the clips of a job, each `[N]` int16."""
    babble = task.babble[job.split]
    rngs = [np.random.default_rng(utterance.seed_key) for utterance in job.utterances]
    if job.speaker is None:
        return [_make_silence(rng, babble, task.conditions) for rng in rngs]
    clips = []
    with _espeak.fresh_synthesizer() as speak:
        for utterance, rng in zip(job.utterances, rngs, strict=True):
            word = _espeak.say_word(
                speak,
                utterance.word,
                accent=job.speaker.accent,
                variant=job.speaker.variant,
                rate_wpm=job.speaker.rate_wpm
                * rng.uniform(*task.conditions.rate_change),
                pitch=job.speaker.pitch + rng.uniform(*task.conditions.pitch_change),
                pitch_range=job.speaker.pitch_range,
                longest_s=_LONGEST_WORD_S,
                sample_rate_hz=SAMPLE_RATE_HZ,
            )
            clips.append(_record(word[:NUM_SAMPLES], rng, babble, task.conditions))
    return clips


def _record(
    word: np.ndarray,
    rng: np.random.Generator,
    babble: np.ndarray,
    conditions: Conditions,
) -> np.ndarray:
    """Returns the word at some moment, in some room, with noise, as int16."""
    onset = rng.integers(NUM_SAMPLES - len(word) + 1)
    speech = np.zeros(NUM_SAMPLES)
    speech[onset : onset + len(word)] = word
    speech_rms = np.sqrt(np.mean(np.square(word, dtype=np.float64)))
    # Twice the length, so that echoes do not come round to the start.
    spectrum = np.fft.rfft(speech, 2 * NUM_SAMPLES)
    if rng.random() < conditions.reverb_share:
        spectrum *= _room_response(rng, conditions)
    noise = _make_noise(rng.choice(_NOISE_KINDS), rng, babble)
    noise *= speech_rms * _amplitude(-rng.uniform(*conditions.snr_db))
    spectrum += np.fft.rfft(noise, 2 * NUM_SAMPLES)
    spectrum *= _channel_response(rng, conditions)
    sound = np.fft.irfft(spectrum)[:NUM_SAMPLES]
    return _to_pcm(sound, rng.uniform(*conditions.level_dbfs))


def _make_silence(
    rng: np.random.Generator, babble: np.ndarray, conditions: Conditions
) -> np.ndarray:
    level_dbfs = rng.uniform(*conditions.silence_level_dbfs)
    noise = _make_noise(rng.choice(_NOISE_KINDS), rng, babble)
    if rng.random() < conditions.silence_zero_share:
        return np.zeros(NUM_SAMPLES, np.int16)
    return _to_pcm(noise, level_dbfs)


def _room_response(rng: np.random.Generator, conditions: Conditions) -> np.ndarray:
    """Direct sound and an exponentially decaying echo, `[N + 1]` complex."""
    time_s = np.arange(NUM_SAMPLES) / SAMPLE_RATE_HZ
    decay = np.exp(-np.log(1000) * time_s / rng.uniform(*conditions.reverb_s))
    echo = rng.standard_normal(NUM_SAMPLES) * decay
    # Not norm(): its BLAS threads would wait on each other in the workers.
    echo *= _amplitude(rng.uniform(*conditions.reverb_db)) / np.sqrt(
        np.sum(np.square(echo))
    )
    return 1 + np.fft.rfft(echo, 2 * NUM_SAMPLES)


def _channel_response(rng: np.random.Generator, conditions: Conditions) -> np.ndarray:
    """Gains of a microphone or a telephone, `[N + 1]`."""
    frequency_hz = np.fft.rfftfreq(2 * NUM_SAMPLES, 1 / SAMPLE_RATE_HZ)
    octaves = np.log2(np.maximum(frequency_hz, 60.0) / 1000)
    gain = _amplitude(rng.uniform(*conditions.tilt_db_per_octave) * octaves)
    low_hz, high_hz = rng.uniform(200, 400), rng.uniform(2800, 3800)
    if rng.random() < conditions.telephone_share:
        gain /= 1 + (low_hz / np.maximum(frequency_hz, 1.0)) ** 6
        gain /= 1 + (frequency_hz / high_hz) ** 12
    return gain


def _make_noise(kind: str, rng: np.random.Generator, babble: np.ndarray) -> np.ndarray:
    """Returns `[N]` background sound of RMS 1."""
    frequency_hz = np.maximum(np.fft.rfftfreq(NUM_SAMPLES, 1 / SAMPLE_RATE_HZ), 20.0)
    if kind == "babble":
        starts = rng.integers(len(babble), size=2)
        noise = sum(np.roll(babble, -start)[:NUM_SAMPLES] for start in starts)
    elif kind == "hum":
        # A clip lasts 1 s, so that a multiple of 1 Hz is one bin.
        harmonics = np.arange(1, 21)
        spectrum = 0.02 * np.fft.rfft(rng.standard_normal(NUM_SAMPLES))
        spectrum[rng.integers(48, 62) * harmonics] += (
            NUM_SAMPLES
            * (rng.random(len(harmonics)) / harmonics)
            * np.exp(2j * np.pi * rng.random(len(harmonics)))
        )
        noise = np.fft.irfft(spectrum)
    else:
        corner_hz = rng.uniform(300, 3000)
        gain = {
            "white": np.ones_like(frequency_hz),
            "pink": frequency_hz**-0.5,
            "brown": 1 / frequency_hz,
            "low_passed": 1 / (1 + (frequency_hz / corner_hz) ** 4),
        }[kind]
        white = np.fft.rfft(rng.standard_normal(NUM_SAMPLES))
        noise = np.fft.irfft(white * gain)
    return noise / np.sqrt(np.mean(np.square(noise)))


def _make_noise_clips(babble: np.ndarray, seed: int) -> np.ndarray:
    rng = np.random.default_rng([seed, _NOISE])
    kinds = np.resize(_NOISE_KINDS, _NUM_NOISE_CLIPS)
    return np.stack([_to_pcm(_make_noise(kind, rng, babble), -3.0) for kind in kinds])


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


def _to_pcm(sound: np.ndarray, level_dbfs: float) -> np.ndarray:
    gain = 32767 * _amplitude(level_dbfs) / np.abs(sound).max()
    return np.round(sound * gain).astype(np.int16)


def _amplitude(level_db):
    return 10 ** (level_db / 20)


def _num_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return min(len(os.sched_getaffinity(0)), _MAX_WORKERS)
    return min(os.cpu_count() or 1, _MAX_WORKERS)


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
