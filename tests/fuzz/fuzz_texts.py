"""Damaged tables and JSON, the same ones every time."""

import copy
import csv
import io
import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from fuzz_bytes import DAMAGES

# What a cell of a table may become.
_CELLS = (
    *("", " ", "\0", "a\0b", "\n", "a\nb", '"', "'", ",", ";", "\t", "\ufeff"),
    *("..", "../..", "/", "/etc/passwd", "//", "~", "C:\\x.wav", "a/", "./a"),
    *("." * 300, "x" * 5000, "x" * 140_000, "9" * 5000, "-1", "1e9", "nan", "inf"),
    *("999999999999999999999", "18446744073709551615", "None", "=1+1", "%s", "\udcff"),
    *("train", "TEST", "dev", "caf\u00e9", "cafe\u0301", "\U0001f50a", "a/b", "0x1F"),
    *("/dev/zero", "\u202e", "\u0663"),
)
# What a value of JSON may become.
_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 3, 2**31, 2**63, 10**30, -(10**30), 0.5, 1e-30),
    *(1e308, -1e308, float("nan"), float("inf"), "", "x", "\0", "a\nb", "\ud800", ".."),
    *("a/b", "../../x", "x" * 5000, "9" * 5000, "nan", "\u202e", [], [1], ["a"], [[]]),
    *([None, "x"], {}, {"a": 1}, {"": {}}, [0.1, 0.2, 0.3]),
)


def tables(
    columns: Sequence[str], rows: Sequence[Sequence[Any]], count: int
) -> list[tuple[str, bytes]]:
    """Returns how each table is damaged, and its bytes; a few are not, after all.

    Args:
        columns: Names in the first line of a good table.
        rows: Its other lines.
        count: Tables wanted: those made by hand, thinned out where fewer are asked
            for, and others with random damage.
    """
    made = list(_made_tables(columns, [list(map(str, row)) for row in rows]))
    chosen = _thin(made, count // 2)
    for seed in range(count - len(chosen)):
        rng = np.random.default_rng([4, seed])
        changed = [list(columns), *(list(map(str, row)) for row in rows)]
        kind = "cells"
        for _ in range(rng.integers(1, 6)):
            line = changed[rng.integers(len(changed) if seed % 4 else 1)]
            line[rng.integers(len(line))] = _CELLS[rng.integers(len(_CELLS))]
        content = _as_csv(changed)
        if seed % 2:
            damage = DAMAGES[seed // 2 % len(DAMAGES)]
            kind, content = damage.__name__, damage(content, rng)
        chosen.append((f"{kind} {seed}", content))
    return chosen


def json_files(valid: dict[str, Any], count: int) -> list[tuple[str, bytes]]:
    """Returns how each JSON file is damaged, and its bytes; see `tables`."""
    good = json.dumps(valid, indent=2).encode()
    chosen = _thin(list(_made_json(good)), count // 3)
    for seed in range(count - len(chosen)):
        rng = np.random.default_rng([5, seed])
        if seed % 4 == 3:
            damage = DAMAGES[seed // 4 % len(DAMAGES)]
            chosen.append((f"{damage.__name__} {seed}", damage(good, rng)))
            continue
        changed = copy.deepcopy(valid)
        path = _change(changed, rng)
        chosen.append((path, json.dumps(changed).encode()))
    return chosen


def _made_tables(
    columns: Sequence[str], rows: list[list[str]]
) -> Iterator[tuple[str, bytes]]:
    good = _as_csv([list(columns), *rows])
    yield "empty", b""
    for kind, content in (
        *(("byte order mark", b"\xef\xbb\xbf"), ("line end", b"\n"), ("zero", b"\0")),
        *(("quote", b'"'), ("zeros", bytes(5000)), ("commas", b"," * 5000)),
        ("binary", np.random.default_rng(0).bytes(3000)),
    ):
        yield kind, content
        yield f"{kind} before", content + good
        yield f"{kind} after", good + content
    yield "utf-16", good.decode().encode("utf-16")
    yield "utf-32", good.decode().encode("utf-32")
    yield "latin-1", good.replace(b"a", b"\xe9")
    yield "old line ends", good.replace(b"\r\n", b"\r")
    yield "semicolons", good.replace(b",", b";")
    yield "tabs", good.replace(b",", b"\t")
    yield "all quoted wrongly", good.replace(b",", b'","')
    yield "no columns", _as_csv(rows)
    yield "columns alone", _as_csv([list(columns)])
    yield "columns twice", _as_csv([[*columns, *columns], *rows])
    yield "rows twice", _as_csv([list(columns), *rows, *rows])
    yield "columns in capitals", _as_csv([[name.upper() for name in columns], *rows])
    yield "many columns", _as_csv([[*columns, *map(str, range(50_000))], *rows])
    yield "many rows", good + 20_000 * b"none.wav,1,1,1,1\r\n"
    for place, name in enumerate(columns):
        others = [[*row[:place], *row[place + 1 :]] for row in rows]
        yield f"without {name}", _as_csv([[n for n in columns if n != name], *others])
        yield f"{name} left out of rows", _as_csv([list(columns), *others])
        for cell in _CELLS:
            changed = [[*row[:place], cell, *row[place + 1 :]] for row in rows[:2]]
            table = _as_csv([list(columns), *changed, *rows[2:]])
            yield f"{name} {cell[:20]!r}", table
        same = [[*row[:place], rows[0][place], *row[place + 1 :]] for row in rows]
        yield f"{name} all the same", _as_csv([list(columns), *same])


def _made_json(good: bytes) -> Iterator[tuple[str, bytes]]:
    for content in (
        *(b"", b" ", b"null", b"true", b"1", b'"x"', b"[]", b"{}", b"[{}]", b"{", b"}"),
        *(b"\0", b"nan", b"{'a': 1}", b'{"a": 1,}', b'{"a": 1}{"b": 2}', b"// x\n{}"),
    ):
        yield repr(content), content
    yield "deep list", b"[" * 100_000 + b"]" * 100_000
    yield "deep object", b'{"a":' * 100_000 + b"1" + b"}" * 100_000
    yield "long number", b'{"a": ' + b"9" * 10_000 + b"}"
    yield "byte order mark", b"\xef\xbb\xbf" + good
    yield "utf-16", good.decode().encode("utf-16")
    yield "not utf-8", good.replace(b'"', b'"\xff')
    yield "zeros", bytes(len(good))
    yield "zeros after", good + bytes(100)
    yield "twice", good + good


def _change(tree: Any, rng: np.random.Generator) -> str:
    """Changes or leaves out one value anywhere in a tree; returns what it did."""
    keys = list(tree) if isinstance(tree, dict) else list(range(len(tree)))
    key = keys[rng.integers(len(keys))]
    if isinstance(tree[key], dict | list) and tree[key] and rng.random() < 0.8:
        return f"{key}.{_change(tree[key], rng)}"
    if rng.random() < 0.15:
        del tree[key]
        return f"{key} left out"
    tree[key] = _VALUES[rng.integers(len(_VALUES))]
    return f"{key} = {str(tree[key])[:40]!r}"


def _thin(made: list[Any], count: int) -> list[Any]:
    count = min(count, len(made))
    return [made[index * len(made) // count] for index in range(count)]


def _as_csv(rows: Sequence[Sequence[str]]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    return text.getvalue().encode("utf-8", "surrogateescape")
