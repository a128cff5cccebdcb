"""Speech from espeak-ng, called through ctypes."""

import _ctypes
import contextlib
import ctypes
import importlib
import importlib.metadata
import os
import threading
from collections.abc import Callable, Generator
from pathlib import Path
from typing import NamedTuple

import numpy as np

SAMPLE_RATE_HZ = 22050

# British and American; regional accents confuse the vowels of some words.
ACCENTS = ("en", "en-us")

# Variants of espeak-ng 1.52 that could be men's and women's voices. Left out are those
# that whisper, croak or echo, those of its other synthesizer (whose breath is not the
# same twice), those that move formants far, and of nearly equal ones all but one.
VARIANTS = (
    *("Alex", "Andrea", "Annie", "Gene", "Mario", "Mike", "Mr serious", "Nguyen"),
    *("Storm", "antonio", "aunty", "belinda", "f1", "f2", "f3", "f4", "f5", "fast"),
    *("grandma", "grandpa", "iven", "john", "linda", "m1", "m2", "m3", "m4", "m5"),
    *("m6", "m7", "m8", "max", "pablo", "paul", "pedro", "quincy", "rob", "robert"),
    "sandro",
)

# Constants of espeak-ng/speak_lib.h.
_OUTPUT_SYNCHRONOUS = 2
_INITIALIZE_DONT_EXIT = 0x8000
_CHARS_UTF8 = 1
_RATE, _VOLUME, _PITCH, _RANGE = 1, 2, 3, 4
_SLOWEST_WPM, _FASTEST_WPM = 80, 450

# The library is loaded for one synthesizer at a time.
_lock = threading.Lock()

_SynthCallback = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p
)


class Voice(NamedTuple):
    """How a word is spoken; 50 is the voice's default pitch and range."""

    accent: str  # One of `ACCENTS`.
    variant: str  # One of `VARIANTS`.
    rate_wpm: float = 150.0  # Words per minute.
    pitch: float = 50.0  # 0..100
    pitch_range: float = 50.0  # 0..100

    def __str__(self) -> str:
        return f"{self.accent}+{self.variant}"


# From a text and a voice to `[T]` int16 at `SAMPLE_RATE_HZ`.
Speak = Callable[[str, Voice], np.ndarray]


class MissingDemoError(ImportError):
    """espeak-ng, which the built-in synthetic speech needs, is not installed."""


def espeak_version() -> str:
    """Returns the version of the wheel; raises `MissingDemoError` without it."""
    _library_and_data()
    return importlib.metadata.version("espeakng_loader")


@contextlib.contextmanager
def fresh_synthesizer() -> Generator[Speak, None, None]:
    """Loads the library, and unloads it at the end.

    Flutter and noise of the voices depend on static variables that no call resets, so a
    word depends on what was spoken since the library was loaded, and on nothing else.
    A process has one synthesizer at a time; other threads wait for it.

    Yields:
        A function that speaks; values that espeak-ng does not accept are clipped.
    """
    with _lock:
        yield from _load_and_unload()


def _load_and_unload() -> Generator[Speak, None, None]:
    library_path, data_path = _library_and_data()
    library = ctypes.CDLL(str(library_path))
    library.espeak_Synth.argtypes = (
        *(ctypes.c_char_p, ctypes.c_size_t, ctypes.c_uint, ctypes.c_int),
        *(ctypes.c_uint, ctypes.c_uint, ctypes.c_void_p, ctypes.c_void_p),
    )
    pieces: list[bytes] = []

    @_SynthCallback
    def collect(samples, num_samples, _events) -> int:
        if samples and num_samples > 0:
            pieces.append(ctypes.string_at(samples, 2 * num_samples))
        return 0

    def speak(text: str, voice: Voice) -> np.ndarray:
        pieces.clear()
        # espeak-ng ignores an unknown variant without an error.
        known = (data_path / "voices" / "!v" / voice.variant).is_file()
        if not known or library.espeak_SetVoiceByName(str(voice).encode()):
            raise ValueError(f"voice: espeak-ng has no {str(voice)!r}")
        for parameter, value in (
            (_RATE, np.clip(voice.rate_wpm, _SLOWEST_WPM, _FASTEST_WPM)),
            (_VOLUME, 100),
            (_PITCH, np.clip(voice.pitch, 0, 100)),
            (_RANGE, np.clip(voice.pitch_range, 0, 100)),
        ):
            library.espeak_SetParameter(parameter, int(value), 0)
        data = text.encode()
        status = library.espeak_Synth(
            data, len(data) + 1, 0, 0, 0, _CHARS_UTF8, None, None
        )
        if status:
            raise RuntimeError(f"espeak-ng gave status {status} for {text!r}")
        return np.frombuffer(b"".join(pieces), np.int16)

    try:
        rate_hz = library.espeak_Initialize(
            _OUTPUT_SYNCHRONOUS, 0, os.fsencode(data_path), _INITIALIZE_DONT_EXIT
        )
        if rate_hz != SAMPLE_RATE_HZ:
            raise RuntimeError(
                f"espeak-ng: expected {SAMPLE_RATE_HZ} Hz at the start, got {rate_hz}"
            )
        library.espeak_SetSynthCallback(collect)
        library.espeak_ng_SetRandSeed(ctypes.c_long(1))
        yield speak
    finally:
        library.espeak_Terminate()
        # ctypes has no public function for this.
        _ctypes.dlclose(library._handle)


def say_word(speak: Speak, word: str, voice: Voice, *, longest_s: float) -> np.ndarray:
    """Returns a word without the silence around it, faster if it would be too long.

    Slow voices may end a little after `longest_s`.

    Returns:
        `[T]` float32 in [-1, 1] at `SAMPLE_RATE_HZ`.

    Raises:
        RuntimeError: The voice says nothing.
    """
    sound = _trim(speak(word, voice))
    longest = round(longest_s * SAMPLE_RATE_HZ)
    if len(sound) > longest:
        # A little faster still: pauses within the word do not shrink.
        rate_wpm = voice.rate_wpm * 1.05 * len(sound) / longest
        sound = _trim(speak(word, voice._replace(rate_wpm=rate_wpm)))
    if not len(sound):
        raise RuntimeError(f"espeak-ng: {str(voice)!r} says nothing for {word!r}")
    return sound


def _trim(pcm: np.ndarray) -> np.ndarray:
    """Cuts both ends where they are 40 dB below the peak; empty if all is zero."""
    sound = pcm.astype(np.float32) / np.float32(32768)
    loudness = np.abs(sound)
    loud = np.flatnonzero(loudness > 0.01 * loudness.max(initial=0.0))
    if not len(loud):
        return sound[:0]
    margin = SAMPLE_RATE_HZ // 100
    return sound[max(0, loud[0] - margin) : loud[-1] + margin]


def _library_and_data() -> tuple[Path, Path]:
    try:
        loader = importlib.import_module("espeakng_loader")
    except ImportError:
        raise MissingDemoError(
            "the built-in synthetic speech needs espeak-ng: "
            "pip install 'uap_jax[demo]'  (or give --data_dir)"
        ) from None
    return Path(loader.get_library_path()), Path(loader.get_data_path())
