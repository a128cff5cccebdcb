import struct

import numpy as np
import pytest

from uap_jax.bridges.ctranslate2_files import read_ctranslate2

ARRAYS = {
    "a/weight": np.arange(6, dtype=np.float16).reshape(2, 3),
    "a/bias": np.float32([1.5, -2.5]),
    "heads": np.int16(6),
}


def text(name):
    return struct.pack("<H", len(name) + 1) + name.encode() + b"\0"


def model(arrays=ARRAYS, *, version=6, dtypes=("f4", "i1", "i2", "i4", "f2")):
    """A file as the specification describes it, with one alias."""
    parts = [struct.pack("<I", version), text("Spec"), struct.pack("<I", 3)]
    parts.append(struct.pack("<I", len(arrays)))
    for name, array in arrays.items():
        parts += [text(name), struct.pack("<B", array.ndim)]
        parts += [struct.pack("<I", size) for size in array.shape]
        dtype = dtypes.index(array.dtype.str[1:])
        parts += [struct.pack("<BI", dtype, array.nbytes), array.tobytes()]
    parts += [struct.pack("<I", 1), text("tied"), text("a/weight")]
    return b"".join(parts)


def test_arrays_and_aliases_are_read(tmp_path):
    path = tmp_path / "model.bin"
    path.write_bytes(model())
    arrays = read_ctranslate2(path)
    assert set(arrays) == {*ARRAYS, "tied"}
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(arrays[name], array, strict=True)
    np.testing.assert_array_equal(arrays["tied"], ARRAYS["a/weight"])


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (model(version=5), "expected version 6, got 5"),
        (model(dtypes=("f4", "i1", "i2", "i4", "", "f2")), "a type that is not read"),
        (model()[:-9], "ends too early"),
        (model()[:40], "requires"),
        (b"", "requires"),
        (b"PK\3\4" + bytes(100), "expected version 6"),
    ],
)
def test_unreadable_files_say_why_in_one_line(tmp_path, data, says):
    path = tmp_path / "model.bin"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=says) as error:
        read_ctranslate2(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
