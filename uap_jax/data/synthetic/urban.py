"""The built-in corpus of city sounds: the ten classes of UrbanSound8K, computed."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from uap_jax.data.dataset import Dataset, ProgressFn
from uap_jax.data.synthetic import synthesis
from uap_jax.data.synthetic.recording import (
    Conditions,
    amplitude,
    channel_response,
    check_at_least,
    room_response,
    to_pcm,
)
from uap_jax.data.synthetic.rendered import RenderedClips, in_threads
from uap_jax.data.synthetic.synthesis import (
    SAMPLE_RATE_HZ,
    Rng,
    colored_noise,
    log_uniform,
    sloped,
    wander,
)
from uap_jax.data.synthetic.urban_sounds import SOUNDS
from uap_jax.files import fingerprint

CLASS_NAMES = tuple(sound.__name__ for sound in SOUNDS)
NUM_SAMPLES = 50_999

# In the fingerprint; raised when the same settings give other clips.
_VERSION = 2
# Of the sources of each class.
_VALIDATION_SHARE = 0.1
_TEST_SHARE = 0.18
_NUM_NOISE_CLIPS = 32
_FRAME = 320

# Seeds are (seed, stream, ...), so streams are independent.
_SOURCE, _CLIP, _NOISE = range(3)


@dataclasses.dataclass(frozen=True)
class Scenes:
    """Difficulty of the recordings; a pair is the range of a uniform draw."""

    snr_db: tuple[float, float] = (10.0, 30.0)  # While the sound lasts.
    other_share: float = 0.1  # Share of clips with a fainter sound of another class.
    other_db: tuple[float, float] = (-25.0, -10.0)  # Its level over the first.
    # Share of sources whose high frequencies do not reach the recorder.
    far_share: float = 0.15
    far_hz: tuple[float, float] = (1000.0, 4000.0)  # Where these begin to fade.
    short_share: float = 0.15  # Share of clips that end early; the rest is zero.
    short_s: tuple[float, float] = (1.5, 3.0)  # Length of these.
    # Levels, rooms and channels.
    recorder: Conditions = dataclasses.field(
        default_factory=lambda: Conditions(
            level_dbfs=(-20.0, -1.0),
            reverb_share=0.3,
            reverb_s=(0.2, 1.0),
            reverb_db=(-15.0, -2.0),
        )
    )


class _Clip(NamedTuple):
    label: int
    source: int
    take: int


def load_synthetic_urban(
    *,
    cache_dir: str | Path,
    num_sources_per_class: int = 150,
    num_clips_per_source: int = 2,
    seed: int = 0,
    scenes: Scenes | None = None,
    num_workers: int | None = None,
    progress: ProgressFn | None = None,
) -> Dataset:
    """Returns the built-in city sounds; clips are computed once, when first read.

    A class has sources, such as dogs, each with a site, a recorder and a voice; clips
    of a source share these and differ in events, level and background. A source is a
    group. The same arguments give the same clips on one machine.

    Args:
        cache_dir: Folder of the caches.
        num_sources_per_class: At least 5; with 150, 108 are for the training, 15 for
            the validation and 27 for the test.
        num_clips_per_source: At least 1.
        seed: Random seed of everything.
        scenes: Difficulty of the recordings.
        num_workers: Threads; None: one a core.
        progress: Called as progress("synthetic city sounds", done, total).

    Returns:
        int16 clips of 50,999 samples at 16 kHz, class by class in the order of
        UrbanSound8K's classID, with splits, and with background noise.

    Raises:
        ValueError: A setting is out of its range.
    """
    check_at_least(5, num_sources_per_class=num_sources_per_class)
    check_at_least(1, num_clips_per_source=num_clips_per_source)
    if num_workers is not None:
        check_at_least(1, num_workers=num_workers)
    check_at_least(0, seed=seed)
    scenes = scenes or Scenes()
    key = fingerprint(
        *("synthetic_urban", _VERSION, num_sources_per_class, num_clips_per_source),
        *(seed, dataclasses.asdict(scenes)),
    )
    plan = [
        _Clip(label, source, take)
        for label in range(len(CLASS_NAMES))
        for source in range(num_sources_per_class)
        for take in range(num_clips_per_source)
    ]

    def render(indices: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        chosen = indices.tolist()
        clips = in_threads(
            lambda index: _record(plan[index], seed, scenes),
            chosen,
            num_workers=num_workers,
        )
        yield from zip(chosen, clips, strict=True)

    num_test = max(1, round(_TEST_SHARE * num_sources_per_class))
    num_validation = max(1, round(_VALIDATION_SHARE * num_sources_per_class))
    splits = np.full(num_sources_per_class, "train", dtype="<U10")
    splits[-num_test - num_validation :] = "validation"
    splits[-num_test:] = "test"
    folder = Path(cache_dir) / f"synthetic_urban-{key}"
    return Dataset(
        name="synthetic_urban",
        clips=RenderedClips(
            folder / "clips.npy",
            (len(plan), NUM_SAMPLES),
            render,
            progress=progress,
            what="synthetic city sounds",
        ),
        labels=np.array([clip.label for clip in plan], np.int32),
        class_names=CLASS_NAMES,
        groups=np.array([f"{CLASS_NAMES[c.label]}-{c.source}" for c in plan]),
        names=np.array(
            [f"synthetic/{CLASS_NAMES[c.label]}/{c.source}-{c.take}" for c in plan]
        ),
        sample_rate_hz=SAMPLE_RATE_HZ,
        fingerprint=key,
        official_splits=splits[[clip.source for clip in plan]],
        noise=RenderedClips(
            folder / "noise.npy",
            (_NUM_NOISE_CLIPS, NUM_SAMPLES),
            lambda _: enumerate(_make_noise(seed)),
        ),
    )


def _record(clip: _Clip, seed: int, scenes: Scenes) -> np.ndarray:
    """Returns a clip `[N]` int16."""
    # Draws from `source` are the same for all clips of the source.
    source = np.random.default_rng([seed, _SOURCE, clip.label, clip.source])
    rng = np.random.default_rng([seed, _CLIP, *clip])
    response = _site_response(source, scenes)
    background_gain = _background_gain(source)
    sound = SOUNDS[clip.label](source, rng)
    loudness = _loudness(sound)
    background = _background(rng, background_gain)
    background *= loudness * amplitude(-rng.uniform(*scenes.snr_db))
    if rng.random() < scenes.other_share:
        label = (clip.label + rng.integers(1, len(SOUNDS))) % len(SOUNDS)
        other = SOUNDS[label](rng, rng)
        level = loudness * amplitude(rng.uniform(*scenes.other_db))
        background += other * (level / _loudness(other))
    # Twice the length, so that echoes do not wrap around to the start.
    recorded = np.fft.irfft(
        np.fft.rfft(sound, 2 * synthesis.NUM_SAMPLES) * response[0]
        + np.fft.rfft(background, 2 * synthesis.NUM_SAMPLES) * response[1]
    )[:NUM_SAMPLES]
    if rng.random() < scenes.short_share:
        recorded[round(rng.uniform(*scenes.short_s) * SAMPLE_RATE_HZ) :] = 0
    return to_pcm(recorded, rng.uniform(*scenes.recorder.level_dbfs))


def _site_response(source: Rng, scenes: Scenes) -> tuple[np.ndarray, np.ndarray]:
    """Gains from the sound, and from the background, to the file."""
    channel = channel_response(source, scenes.recorder, synthesis.NUM_SAMPLES)
    way = channel.astype(np.complex128)
    if source.random() < scenes.recorder.reverb_share:
        way *= room_response(source, scenes.recorder, synthesis.NUM_SAMPLES)
    if source.random() < scenes.far_share:
        frequency_hz = np.fft.rfftfreq(2 * synthesis.NUM_SAMPLES, 1 / SAMPLE_RATE_HZ)
        way /= 1 + (frequency_hz / source.uniform(*scenes.far_hz)) ** 2
    return way, channel


def _background_gain(source: Rng) -> np.ndarray:
    """Gains of wind, traffic or hiss."""
    gain = sloped(source.uniform(-1.5, 0.0))
    corner = log_uniform(source, 1000, 20_000)
    return gain / (1 + np.linspace(0, SAMPLE_RATE_HZ / 2, len(gain)) / corner) ** 2


def _background(rng: Rng, gain: np.ndarray) -> np.ndarray:
    """Returns `[N]` noise of RMS about 1 that rises and falls."""
    swell = np.exp(rng.uniform(0, 0.5) * wander(rng, rng.uniform(0.3, 2)))
    return colored_noise(rng, gain) * swell


def _loudness(sound: np.ndarray) -> float:
    """The RMS of a sound while it lasts."""
    power = np.mean(np.square(sound).reshape(-1, _FRAME), axis=1)
    return float(np.sqrt(np.mean(power[power >= 0.1 * power.max()])))


def _make_noise(seed: int) -> np.ndarray:
    rng = np.random.default_rng([seed, _NOISE])
    clips = [_background(rng, _background_gain(rng)) for _ in range(_NUM_NOISE_CLIPS)]
    return np.stack([to_pcm(clip[:NUM_SAMPLES], -3.0) for clip in clips])
