"""Damage to the bytes of any file, the same for the same generator."""

import struct
from collections.abc import Callable

import numpy as np

# What a number of a header may become.
_EXTREMES = (
    *(0, 1, 2, 0x7F, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x10000),
    *(0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF),
)


def truncate(content: bytes, rng: np.random.Generator) -> bytes:
    """Cuts the end off, as often in the first hundred bytes as after them."""
    end = min(100, len(content)) if rng.random() < 0.5 else len(content)
    return content[: rng.integers(end + 1)]


def flip_bits(content: bytes, rng: np.random.Generator) -> bytes:
    """Flips up to 8 bits anywhere."""
    return _flip(content, rng, len(content))


def flip_header(content: bytes, rng: np.random.Generator) -> bytes:
    """Flips up to 8 bits of the first 64 bytes."""
    return _flip(content, rng, min(64, len(content)))


def overwrite_field(content: bytes, rng: np.random.Generator) -> bytes:
    """Puts an extreme number into 2, 4 or 8 bytes of the first 80."""
    width, code = ((2, "H"), (4, "I"), (8, "Q"))[rng.integers(3)]
    value = _EXTREMES[rng.integers(len(_EXTREMES))] % 2 ** (8 * width)
    order = "<>"[rng.integers(2)]
    start = int(rng.integers(min(80, len(content)) + 1))
    field = struct.pack(order + code, value)
    return content[:start] + field + content[start + width :]


def remove_part(content: bytes, rng: np.random.Generator) -> bytes:
    """Leaves out some bytes in the middle."""
    start, end = np.sort(rng.integers(len(content) + 1, size=2))
    return content[:start] + content[min(end, start + 40) :]


def repeat_part(content: bytes, rng: np.random.Generator) -> bytes:
    """Repeats some bytes many times."""
    start, end = np.sort(rng.integers(len(content) + 1, size=2))
    part = content[start : min(end, start + 40)]
    return content[:end] + part * int(rng.integers(1, 50)) + content[end:]


def replace_end(content: bytes, rng: np.random.Generator) -> bytes:
    """Replaces the end by random bytes."""
    start = int(rng.integers(len(content) + 1))
    return content[:start] + rng.bytes(len(content) - start)


def zero_part(content: bytes, rng: np.random.Generator) -> bytes:
    """Replaces some bytes by zeros, as a lost sector does."""
    start, end = np.sort(rng.integers(len(content) + 1, size=2))
    return content[:start] + bytes(end - start) + content[end:]


DAMAGES: tuple[Callable[[bytes, np.random.Generator], bytes], ...] = (
    *(truncate, flip_bits, flip_header, overwrite_field),
    *(remove_part, repeat_part, replace_end, zero_part),
)


def _flip(content: bytes, rng: np.random.Generator, end: int) -> bytes:
    changed = bytearray(content)
    for _ in range(rng.integers(1, 9) if end else 0):
        changed[rng.integers(end)] ^= 1 << int(rng.integers(8))
    return bytes(changed)
