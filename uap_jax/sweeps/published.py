"""The paper's numbers, to stand beside measured ones.

They are facts of others and no part of the package: the files lie in the repository, in
`third_party/published`, whose README lists the fields. A package installed without the
repository finds none and gets empty tables, in which every look-up gives None.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

_FOLDER = Path(__file__).parents[2] / "third_party" / "published"


@dataclasses.dataclass(frozen=True)
class Published:
    """A table of the paper.

    Attributes:
        table: Its number, "1" ... "19"; "4A" and "4B" are panels, "figure_3" what the
            text says of that figure.
        title: What it holds.
        source: Where it was published.
        notes: What to know before comparing.
        cells: Flat records, numbers as printed. Rates in [0, 1], levels in dB; None is
            a number that could not be read. "target" is a class, None (untargeted) or
            "mean" (over all classes as targets). "errors" maps a field of the cell to
            what the paper gets wrong there.
    """

    table: str
    title: str = ""
    source: str = ""
    notes: tuple[str, ...] = ()
    cells: tuple[dict[str, Any], ...] = ()


def load_published(table: str, folder: Path | None = None) -> Published:
    """Reads a table of the paper.

    Args:
        table: See `Published.table`.
        folder: Where the files are; None: the repository that this file belongs to.

    Returns:
        The table; one without cells where there is no such folder.

    Raises:
        ValueError: The folder is there and does not hold the table.

    Example:
        >>> table = load_published("6")
        >>> cell = published_cell(table, method="penalty", target="dog_bark")
    """
    folder = _FOLDER if folder is None else folder
    if not folder.is_dir():
        return Published(table)
    stem = table if table.startswith("figure") else f"table_{table}"
    path = folder / f"{stem}.json"
    if not path.is_file():
        names = sorted(
            path.stem.removeprefix("table_") for path in folder.glob("*.json")
        )
        raise ValueError(f"table: expected one of {names}, got {table!r}")
    content = json.loads(path.read_text(encoding="utf-8"))
    return Published(
        table=content["table"],
        title=content["title"],
        source=content["source"],
        notes=tuple(content["notes"]),
        cells=tuple(content["cells"]),
    )


def published_cell(published: Published, **keys: str | None) -> dict[str, Any] | None:
    """Returns the one cell whose fields have these values.

    Args:
        published: The table.
        **keys: Fields and their values; `target=None` is the untargeted attack.

    Returns:
        The cell; None where there is none.

    Raises:
        ValueError: A field is in no cell of the table, or more than one cell fits.
    """
    if not published.cells:
        return None
    fields = sorted(set().union(*published.cells))
    if unknown := sorted(keys.keys() - set(fields)):
        raise ValueError(f"keys: expected some of {fields}, got {unknown}")
    found = [
        cell
        for cell in published.cells
        if all(name in cell and cell[name] == keys[name] for name in keys)
    ]
    if len(found) > 1:
        raise ValueError(
            f"keys: expected to fit one cell of table {published.table}, got {keys} "
            f"that fit {len(found)}"
        )
    return found[0] if found else None
