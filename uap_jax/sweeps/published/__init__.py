"""The paper's numbers, shown beside measured ones.

Fields and source of the files here are in third_party/README.md.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

_FOLDER = Path(__file__).parent


@dataclasses.dataclass(frozen=True)
class Published:
    """A table of the paper.

    Cells are flat records, numbers as printed: rates in [0, 1], levels in dB; None is
    an illegible number. "target" is a class, None (untargeted) or "mean" (over all
    classes as targets). "errors" maps a field to what the paper gets wrong there.
    """

    table: str  # "1" ... "19"; "4A", "4B": panels; "figure_3": what the text says of it
    title: str = ""
    source: str = ""
    notes: tuple[str, ...] = ()  # to know before comparing
    cells: tuple[dict[str, Any], ...] = ()


def load_published(table: str) -> Published:
    """Reads a table of the paper; see `Published.table`.

    Raises:
        ValueError: There is no such table.
    """
    stem = table if table.startswith("figure") else f"table_{table}"
    path = _FOLDER / f"{stem}.json"
    if not path.is_file():
        names = sorted(p.stem.removeprefix("table_") for p in _FOLDER.glob("*.json"))
        raise ValueError(f"table: expected one of {names}, got {table!r}")
    content = json.loads(path.read_text(encoding="utf-8"))
    return Published(
        **content | {key: tuple(content[key]) for key in ("notes", "cells")}
    )


def published_cell(published: Published, **keys: str | None) -> dict[str, Any] | None:
    """Returns the one cell whose fields have these values, or None.

    Raises:
        ValueError: A field is in no cell of the table, or more than one cell fits.
    """
    fields = sorted(set().union(*published.cells))
    if unknown := sorted(keys.keys() - set(fields)):
        raise ValueError(f"keys: expected some of {fields}, got {unknown}")
    fitting = [
        cell
        for cell in published.cells
        if all(name in cell and cell[name] == keys[name] for name in keys)
    ]
    if len(fitting) > 1:
        raise ValueError(
            f"keys: expected to fit one cell of table {published.table}, got {keys} "
            f"that fit {len(fitting)}"
        )
    return fitting[0] if fitting else None
