"""A table, and its forms: Markdown, CSV, JSON and LaTeX."""

import csv
import io
import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from uap_jax.sweeps.published import Published


class Column(NamedTuple):
    """A column; where people read, neighbours of one group share a cell."""

    key: str
    label: str
    format: str = ""
    group: str = ""


class Remark(NamedTuple):
    """A note on one cell: row, key of the column, text."""

    row: int
    column: str
    text: str


class Table(NamedTuple):
    """Rows hold texts and numbers by the column's key; a missing value is None."""

    columns: tuple[Column, ...]
    rows: tuple[Mapping[str, Any], ...]
    remarks: tuple[Remark, ...] = ()


def to_markdown(table: Table) -> str:
    """Returns the table in Markdown; "-" is a missing value, "[1]" a remark below."""
    header, *lines = _merged(table, escaped="|")
    text = [f"| {' | '.join(header)} |", "| --- " * len(header) + "|"]
    text += [f"| {' | '.join(line)} |" for line in lines]
    if table.remarks:
        text += ["", *(f"- [{number}] {said}" for said, number in numbered(table))]
    return "\n".join(text) + "\n"


def to_csv(table: Table) -> str:
    """Returns the table with numbers in full; a missing value is empty.

    Remarks, if any, are in a last column, "remarks".
    """
    file = io.StringIO()
    names = [column.key for column in table.columns] + ["remarks"] * bool(table.remarks)
    writer = csv.DictWriter(file, names, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for index, row in enumerate(table.rows):
        said = [f"{key}: {text}" for at, key, text in table.remarks if at == index]
        writer.writerow({**row, "remarks": "; ".join(said)})
    return file.getvalue()


def to_json(table: Table, about: Mapping[str, Any]) -> str:
    """Returns one object: `about`, and "rows" and "remarks" as lists of objects."""
    rows = [
        {column.key: row.get(column.key) for column in table.columns}
        for row in table.rows
    ]
    remarks = [remark._asdict() for remark in table.remarks]
    return json.dumps({**about, "rows": rows, "remarks": remarks}, indent=2) + "\n"


def to_latex(table: Table) -> str:
    """Returns a LaTeX `tabular`; remarks are comments above it."""
    header, *lines = (" & ".join(cells) for cells in _merged(table, escaped="_&%#$"))
    num_columns = header.count(" & ") + 1
    return "\n".join(
        [
            *(f"% [{number}] {said}" for said, number in numbered(table)),
            rf"\begin{{tabular}}{{{'l' * num_columns}}}",
            r"\hline",
            rf"{header} \\",
            r"\hline",
            *(rf"{line} \\" for line in lines),
            r"\hline",
            r"\end{tabular}",
            "",
        ]
    )


def to_grid(table: Table) -> dict[str, Any]:
    """Returns header and rows as texts for a page; leading text columns name a row."""
    columns = table.columns
    num_names = next((i for i, c in enumerate(columns) if c.format), len(columns))
    names, numbers = columns[:num_names], columns[num_names:]
    marked = _marks(table)
    rows = [
        {
            "names": [_show(row.get(column.key), column) for column in names],
            "cells": [
                {
                    "text": _show(row.get(column.key), column),
                    "kind": _css_classes(row.get(column.key), column),
                    "mark": marked.get((index, column.key)),
                }
                for column in numbers
            ],
        }
        for index, row in enumerate(table.rows)
    ]
    return {
        "names": [column.label for column in names],
        "groups": [(span[0].group, span) for span in _spans(numbers)],
        "rows": rows,
        "remarks": numbered(table),
    }


def of_paper(published: Published) -> Table:
    """Returns a table of the paper as it stands in the paper."""
    keys = [key for key in published.cells[0] if key != "errors"]
    columns = tuple(
        Column(
            key,
            key.removesuffix("_db").replace("_", " ") + " (dB)" * key.endswith("_db"),
            ".3f" if key.endswith("_db") else "",
        )
        for key in keys
    )
    rows = tuple(
        {**cell, "target": cell["target"] or "untargeted"} if "target" in cell else cell
        for cell in published.cells
    )
    remarks = tuple(
        of_paper_error(index, key, text)
        for index, cell in enumerate(published.cells)
        for key, text in cell.get("errors", {}).items()
    )
    return Table(columns, rows, remarks)


def of_paper_error(row: int, column: str, text: str) -> Remark:
    """Returns the remark on a number that the paper gets wrong."""
    return Remark(row, column, f"the paper's number: {text}")


def numbered(table: Table) -> list[tuple[str, int]]:
    """Returns each different remark with its number."""
    texts = dict.fromkeys(remark.text for remark in table.remarks)
    return [(text, number) for number, text in enumerate(texts, 1)]


def _marks(table: Table) -> dict[tuple[int, str], int]:
    """Returns the numbers of remarks by row and key of the column."""
    numbers = dict(numbered(table))
    return {(at, key): numbers[text] for at, key, text in table.remarks}


def _show(value: Any, column: Column) -> str:
    """Returns a value as people read it; "-" if it is missing."""
    return "-" if value is None else format(value, column.format)


def _spans(columns: tuple[Column, ...]) -> list[list[Column]]:
    """Returns neighbouring columns of one group together."""
    found: list[list[Column]] = []
    for column in columns:
        if column.group and found and found[-1][0].group == column.group:
            found[-1].append(column)
        else:
            found.append([column])
    return found


def _css_classes(value: Any, column: Column) -> str:
    classes = ["numeric"] if column.format else []
    classes += ["paper"] if "paper" in column.label else []
    classes += ["absent"] if value is None else []
    return " ".join(classes)


def _merged(table: Table, *, escaped: str) -> Iterator[list[str]]:
    """Yields the header, then the rows, as texts; a group of columns is one cell."""
    escapes = str.maketrans({letter: f"\\{letter}" for letter in escaped})
    merged = _spans(table.columns)
    header = []
    for span in merged:
        labels = " / ".join(column.label for column in span)
        header.append(f"{span[0].group}: {labels}" if span[0].group else labels)
    yield [cell.translate(escapes) for cell in header]
    marked = _marks(table)
    for index, row in enumerate(table.rows):
        texts = {}
        for column in table.columns:
            mark = marked.get((index, column.key))
            text = _show(row.get(column.key), column)
            texts[column.key] = f"{text} [{mark}]" if mark else text
        cells = (" / ".join(texts[column.key] for column in span) for span in merged)
        yield [cell.translate(escapes) for cell in cells]
