"""Where a sound lies in a recording."""

import numpy as np
import pytest

from uap_jax.audio.placement import Placement, parse_placement, place

SOUND = np.arange(1.0, 5.0, dtype=np.float32)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("tile", [1, 2, 3, 4, 1, 2, 3, 4, 1, 2]),
        ("once", [1, 2, 3, 4, 0, 0, 0, 0, 0, 0]),
        ("shift:0", [1, 2, 3, 4, 1, 2, 3, 4, 1, 2]),
        ("shift:0.5", [4, 1, 2, 3, 4, 1, 2, 3, 4, 1]),
        ("shift:-0.5", [2, 3, 4, 1, 2, 3, 4, 1, 2, 3]),
        ("shift:4.5", [4, 1, 2, 3, 4, 1, 2, 3, 4, 1]),
    ],
)
@pytest.mark.parametrize("num_samples", [10, 4, 3, 1])
def test_places(text, expected, num_samples):
    placed = place(SOUND, num_samples, parse_placement(text), sample_rate_hz=2)
    assert placed.dtype == np.float32
    assert placed.tolist() == expected[:num_samples]


@pytest.mark.parametrize(
    "text", ["", "Tile", "once:1", "shift", "shift:", "shift:x", "shift:nan", "2"]
)
def test_other_texts_are_refused(text):
    with pytest.raises(ValueError, match=r'^placement: expected "tile"'):
        parse_placement(text)


@pytest.mark.parametrize(
    ("sound", "num_samples", "sample_rate_hz", "name"),
    [
        (np.zeros(0), 3, 2, "sound"),
        (np.zeros((2, 3)), 3, 2, "sound"),
        (SOUND, 0, 2, "num_samples"),
        (SOUND, 3, 0, "sample_rate_hz"),
    ],
)
def test_arguments_are_checked(sound, num_samples, sample_rate_hz, name):
    with pytest.raises(ValueError, match=f"^{name}: expected"):
        place(sound, num_samples, Placement(), sample_rate_hz=sample_rate_hz)
