"""Weights in a CTranslate2 model file (`model.bin`), read with NumPy alone.

The file, little-endian: version, name of the specification, its revision; then, each
after a count, the variables (name, shape, type, bytes) and the aliases (two names).
"""

import struct
from pathlib import Path

import numpy as np

_VERSION = 6
_DTYPES = (np.float32, np.int8, np.int16, np.int32, np.float16)


def read_ctranslate2(path: Path) -> dict[str, np.ndarray]:
    """Reads all variables of a CTranslate2 model.

    Args:
        path: The file `model.bin`.

    Returns:
        Arrays by name, in their stored types; an alias has the array that it is for.

    Raises:
        ValueError: The file is of another version, has types that are not read
            (bfloat16), or is damaged.
    """
    data, position = path.read_bytes(), 0

    def take(code: str) -> int:
        nonlocal position
        (value,) = struct.unpack_from(f"<{code}", data, position)
        position += struct.calcsize(code)
        return value

    def take_bytes(size: int) -> bytes:
        nonlocal position
        if position + size > len(data):
            raise ValueError("it ends too early")
        position += size
        return data[position - size : position]

    def take_name() -> str:
        return take_bytes(take("H")).rstrip(b"\0").decode()

    try:
        if (version := take("I")) != _VERSION:
            raise ValueError(f"expected version {_VERSION}, got {version}")
        take_name()
        take("I")
        variables = {}
        for _ in range(take("I")):
            name = take_name()
            shape = [take("I") for _ in range(take("B"))]
            if (dtype := take("B")) >= len(_DTYPES):
                raise ValueError(f"{name} has a type that is not read, {dtype}")
            values = np.frombuffer(take_bytes(take("I")), _DTYPES[dtype])
            variables[name] = values.reshape(shape)
        for _ in range(take("I")):
            alias, name = take_name(), take_name()
            variables[alias] = variables[name]
    except (struct.error, UnicodeDecodeError, KeyError, ValueError) as error:
        raise ValueError(f"{path}: not a readable CTranslate2 model: {error}") from None
    return variables
