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

    Attributes:
        table: Its number, "1" ... "19"; "4A" and "4B" are panels, "figure_3" what the
            text says of that figure.
        title: Its content.
        source: Where it was published.
        notes: What to know before comparing.
        cells: Flat records, numbers as printed. Rates in [0, 1], levels in dB; None is
            an illegible number. "target" is a class, None (untargeted) or "mean" (over
            all classes as targets). "errors" maps a field of the cell to what the paper
            gets wrong there.
    """

    table: str
    title: str = ""
    source: str = ""
    notes: tuple[str, ...] = ()
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

    Args:
        published: The table.
        **keys: Fields and their values; `target=None` is the untargeted attack.

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
