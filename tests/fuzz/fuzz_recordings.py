"""Damaged recordings, the same ones every time."""

import functools
import io
import os
import struct
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import soundfile
from fuzz_bytes import DAMAGES

RATE_HZ = 16_000

# Formats and subtypes that stand for all, and the suffix they go by.
_FORMATS = tuple(
    line.split()
    for line in """
    WAV PCM_16 .wav, WAV PCM_U8 .wav, WAV PCM_24 .wav, WAV FLOAT .wav, WAV DOUBLE .wav
    WAV ULAW .wav, WAV IMA_ADPCM .wav, WAV MS_ADPCM .wav, WAV GSM610 .wav
    WAVEX PCM_16 .wav, RF64 PCM_16 .wav, FLAC PCM_16 .flac, FLAC PCM_24 .flac
    OGG VORBIS .ogg, OGG OPUS .opus, MP3 MPEG_LAYER_III .mp3, MP3 MPEG_LAYER_III .wav
    AIFF PCM_16 .aiff, AU PCM_16 .au, W64 PCM_16 .w64, CAF ALAC_16 .caf
    CAF PCM_16 .caf, VOC PCM_16 .voc, NIST PCM_16 .sph, FLAC PCM_16 .wav
    OGG VORBIS .mp3
    """.strip()
    .replace("\n", ",")
    .split(",")
)


class Recording(NamedTuple):
    """A file to be made.

    Attributes:
        kind: How it is damaged.
        name: Of the file, with its suffix.
        make: Makes it at a path.
        by_name: Whether it is the name that matters.
    """

    kind: str
    name: bytes
    make: Callable[[bytes], Any]
    by_name: bool = False


def recordings(count: int = 500) -> list[Recording]:
    """Returns damaged recordings; some can be read all the same.

    All that are made by hand, thinned out where fewer are asked for, and recordings
    of every format with random damage.
    """
    special = (each._replace(by_name=True) for each in (*_names(), *_places()))
    made = [*_headers(), *_contents(), *special]
    num_made = min(len(made), count // 2)
    chosen = [made[index * len(made) // num_made] for index in range(num_made)]
    return chosen + [_mutated(seed) for seed in range(count - num_made)]


def good(seed: int = 0, *, num_samples: int = 1600) -> bytes:
    """Returns a WAV file that can be read."""
    return _encode("WAV", "PCM_16", seed, num_samples=num_samples)


def place(folder: str | os.PathLike[str], wanted: list[Recording], name: str) -> None:
    """Makes recordings in a folder.

    Args:
        folder: Made if it is not there.
        wanted: The recordings.
        name: With {index}, what they are called in place of what comes before the
            suffix, where the name does not matter.
    """
    os.makedirs(folder, exist_ok=True)
    for index, recording in enumerate(wanted):
        recording.make(
            os.path.join(os.fsencode(folder), name_of(recording, index, name))
        )


def name_of(recording: Recording, index: int, name: str) -> bytes:
    """Returns what `place` calls a recording."""
    if recording.by_name:
        return recording.name
    return os.fsencode(name.format(index=index)) + os.path.splitext(recording.name)[1]


def write(path: bytes, content: bytes) -> None:
    with open(path, "xb") as file:
        file.write(content)


def _mutated(seed: int) -> Recording:
    rng = np.random.default_rng([1, seed])
    kind, subtype, suffix = _FORMATS[seed % len(_FORMATS)]
    damage = DAMAGES[seed // len(_FORMATS) % len(DAMAGES)]
    content = damage(_encode(kind, subtype, seed % 3), rng)
    name = f"{seed:03d}-{damage.__name__}{suffix}".encode()
    return Recording(f"{kind} {subtype} {damage.__name__}", name, _writer(content))


@functools.cache
def _encode(kind: str, subtype: str, seed: int, *, num_samples: int = 1600) -> bytes:
    rng = np.random.default_rng([2, seed])
    shape = (num_samples, 1 + seed % 2)
    rate_hz = 8000 if subtype == "GSM610" else (RATE_HZ, 48_000, 8000)[seed % 3]
    buffer = io.BytesIO()
    sound = 0.3 * rng.uniform(-1, 1, shape)
    if subtype == "GSM610":
        sound = sound[:, :1]
    soundfile.write(buffer, sound, rate_hz, format=kind, subtype=subtype)
    return buffer.getvalue()


def _wav(
    *,
    code: int = 1,
    num_channels: int = 1,
    rate_hz: int = RATE_HZ,
    num_bits: int = 16,
    block: int | None = None,
    fmt_size: int = 16,
    before: bytes = b"",
    data: bytes = bytes(range(256)) * 8,
    data_size: int | None = None,
    riff_size: int | None = None,
    magic: bytes = b"RIFF",
) -> bytes:
    """Returns a WAV file whose header may say anything."""
    if block is None:
        block = num_channels * num_bits // 8
    fields = (
        *(code, num_channels, rate_hz % 2**32, rate_hz * block % 2**32),
        *(block % 2**16, num_bits),
    )
    fmt = struct.pack("<HHIIHH", *fields)
    size = len(data) if data_size is None else data_size
    body = b"WAVE" + before + b"fmt " + struct.pack("<I", fmt_size) + fmt
    body += b"data" + struct.pack("<I", size) + data
    size = len(body) if riff_size is None else riff_size
    return magic + struct.pack("<I", size) + body


def _headers() -> Iterator[Recording]:
    """Yields WAV files with headers that say what cannot be."""
    for rate_hz in (0, 1, 7, 100, 10_000_000, 655_350_000, 2**31 - 1, 2**32 - 1):
        yield _made(f"rate {rate_hz}", _wav(rate_hz=rate_hz))
    for num_channels in (0, 255, 1024, 1025, 65_535):
        yield _made(f"{num_channels} channels", _wav(num_channels=num_channels))
    data = bytes(1024 * 40)
    yield _made("1024 short channels", _wav(num_channels=1024, data=data))
    for num_bits in (0, 1, 7, 12, 48, 65_535):
        yield _made(f"{num_bits} bits", _wav(num_bits=num_bits, block=2))
    for code in (0, 2, 3, 0x11, 0x31, 0x40, 0x55, 0x7777, 0xFFFE, 0xFFFF):
        yield _made(f"code {code:#x}", _wav(code=code))
    for block in (0, 1, 3, 4, 65_535):
        for code in (1, 2, 0x11):
            wav = _wav(code=code, block=block, num_bits=4 if code > 1 else 16)
            yield _made(f"code {code} block {block}", wav)
    for size in (0, 1, 3, 2**31 - 1, 2**31, 2**32 - 1):
        yield _made(f"data size {size}", _wav(data_size=size))
        yield _made(f"riff size {size}", _wav(riff_size=size))
        yield _made(f"fmt size {size}", _wav(fmt_size=size))
    yield _made("no data", _wav(data=b""))
    yield _made("half a sample", _wav(data=b"\1"))
    for magic in (b"RIFX", b"RF64", b"riff", b"\0\0\0\0"):
        yield _made(f"magic {magic!r}", _wav(magic=magic))
    chunk = struct.pack("<4sI", b"LIST", 0)
    yield _made("many empty chunks", _wav(before=20_000 * chunk))
    for size in (2**31, 2**32 - 1):
        chunk = struct.pack("<4sI", b"LIST", size)
        yield _made(f"chunk of {size}", _wav(before=chunk))
    nested = _wav()
    for _ in range(50):
        nested = _wav(before=struct.pack("<4sI", b"RIFF", len(nested)) + nested)
    yield _made("nested RIFF", nested)
    yield _made("RIFF in data", _wav(data=_wav()))
    yield _made("two formats", _wav(before=_wav(rate_hz=1)[12:36]))
    for size in (0, 2**62, 2**64 - 1):
        sizes = struct.pack("<4sIQQQI", b"ds64", 28, size, size, size, 0)
        wav = _wav(magic=b"RF64", before=sizes, data_size=2**32 - 1)
        yield _made(f"RF64 of {size}", wav)
    flac = bytearray(_encode("FLAC", "PCM_16", 0))
    flac[21:26] = b"\x0f" + 4 * b"\xff"
    yield _made("FLAC of 2^36 samples", bytes(flac), ".flac")
    info = b"\x10\x00\x10\x00" + bytes(6) + b"\x00\x00\x00\x0f\xff\xff\xff\xff"
    yield _made("FLAC of nothing", b"fLaC\x80\0\0\x22" + info + bytes(16), ".flac")


def _contents() -> Iterator[Recording]:
    """Yields files of samples that are no sound, or of no samples."""
    ramp = np.linspace(-1, 1, 200)
    for value in (np.nan, np.inf, -np.inf, 3e38, -3e38, 1e-45):
        for subtype in ("FLOAT", "DOUBLE"):
            for num_channels in (1, 2):
                samples = np.where(np.arange(200) % 3, value, ramp)
                samples = np.tile(samples[:, None], num_channels)
                content = _float_wav(samples, subtype)
                kind = f"{subtype} {value:g} {num_channels}"
                yield _made(kind, content)
    yield _made("DOUBLE 1e300", _float_wav(np.full((100, 1), 1e300), "DOUBLE"))
    loud = _float_wav(np.full((200, 1), 3.4e38), "FLOAT", rate_hz=44_100)
    yield _made("FLOAT 3.4e38 at 44.1 kHz", loud)
    square = 3.4e38 * np.sign(np.sin(np.arange(3000)))[:, None]
    yield _made("square of 3.4e38", _float_wav(square, "FLOAT", rate_hz=44_100))
    foreign = {
        "text": b"no recording\n",
        "empty": b"",
        "one byte": b"R",
        "zeros": bytes(4096),
        "ones": b"\xff" * 4096,
        "noise": np.random.default_rng(3).bytes(4096),
        "png": b"\x89PNG\r\n\x1a\n" + bytes(100),
        "zip": b"PK\x03\x04" + bytes(100),
        "html": b"<!DOCTYPE html><title>404</title>",
        "id3 of 256 MB": b"ID3\x04\0\0\x7f\x7f\x7f\x7f" + bytes(1000),
        "id3 and nothing": b"ID3\x03\0\0\0\0\0\0",
        "ogg of nothing": b"OggS" + bytes(23) + b"\x01\xff" + bytes(255),
        "mp3 frames of nothing": 200 * (b"\xff\xfb\x90\0" + bytes(413)),
        "script": b"#!/bin/sh\nexit 1\n",
        "mat5": b"MATLAB 5.0 MAT-file" + bytes(105) + b"\0\1IM" + bytes(100),
    }
    for kind, content in foreign.items():
        for suffix in (".wav", ".flac", ".ogg", ".mp3"):
            yield _made(f"{kind} as {suffix}", content, suffix)


def _names() -> Iterator[Recording]:
    """Yields recordings with names that are hard to print, quote or shorten."""
    for name in (
        *(b"two words.wav", b"new\nline.wav", b"tab\t.wav", b"escape\x1b[31m.wav"),
        *(b"latin \xfc\xe9.wav", b"not \xff\xfe utf8.wav", "\u202eright.wav".encode()),
        *("\U0001f50a.wav".encode(), b"-dash.wav", b"--flag=1.wav", b"a,b;c.wav"),
        *(b"quote\"'.wav", b"back\\slash.wav", b"%s{0}$HOME.wav", b"colon: x.wav"),
        *(b"x" * 251 + b".wav", b"x" * 250 + b".flac", b"*?[a].wav", b"UPPER.WAV"),
        *(b"dots...wav", b".wav.wav", b"a.flac.wav", b"a.flac"),
    ):
        yield Recording(f"name {name[:30]!r}", name, _writer(good(len(name))))
        bad = b"bad " + name[4:] if len(name) > 200 else b"bad " + name
        yield Recording(f"name {bad[:30]!r}", bad, _writer(b"no recording"))


def _places() -> Iterator[Recording]:
    """Yields what is no file, or none that can be read."""

    def sparse(path: bytes) -> None:
        write(path, _wav(data_size=2**32 - 1, riff_size=2**32 - 1))
        os.truncate(path, 2**40)

    def closed(path: bytes) -> None:
        write(path, good())
        os.chmod(path, 0)

    def full(path: bytes) -> None:
        os.mkdir(path)
        write(path + b"/inner.wav", good())

    def link(target: bytes) -> Callable[[bytes], None]:
        return lambda path: os.symlink(target, path)

    yield Recording("folder", b"folder.wav", os.mkdir)
    yield Recording("folder with a recording", b"full.wav", full)
    yield Recording("link to itself", b"self.wav", link(b"self.wav"))
    yield Recording("link to another", b"one.wav", link(b"other.wav"))
    yield Recording("and back", b"other.wav", link(b"one.wav"))
    yield Recording("link to nothing", b"gone.wav", link(b"nowhere.wav"))
    yield Recording("link to its folder", b"here.wav", link(b"."))
    yield Recording("link to /dev/zero", b"zero.wav", link(b"/dev/zero"))
    yield Recording("pipe", b"pipe.wav", os.mkfifo)
    yield Recording("not readable", b"closed.wav", closed)
    yield Recording("a terabyte of nothing", b"sparse.wav", sparse)


def _made(kind: str, content: bytes, suffix: str = ".wav") -> Recording:
    letters = (letter if letter.isalnum() else "_" for letter in kind)
    return Recording(kind, ("".join(letters) + suffix).encode(), _writer(content))


def _writer(content: bytes) -> Callable[[bytes], None]:
    return lambda path: write(path, content)


def _float_wav(samples: np.ndarray, subtype: str, rate_hz: int = RATE_HZ) -> bytes:
    kind = np.float32 if subtype == "FLOAT" else np.float64
    with np.errstate(over="ignore", under="ignore"):
        data = samples.astype(kind).tobytes()
    num_bits = 8 * np.dtype(kind).itemsize
    channels = samples.shape[1]
    return _wav(
        code=3, num_channels=channels, rate_hz=rate_hz, num_bits=num_bits, data=data
    )
