"""A table, and its forms: Markdown, CSV, JSON, LaTeX and the cells of a page."""

import csv
import io
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from uap_jax.sweeps.published import Published

# Begins the remark on a number that the paper gets wrong.
PAPER_ERROR = "the paper's number: "


class Column(NamedTuple):
    """A column; where people read, neighbours of one group share a cell."""

    key: str
    label: str
    format: str = ""
    group: str = ""


class Table(NamedTuple):
    """Rows hold texts and numbers by the column's key; a missing value is None."""

    columns: tuple[Column, ...]
    rows: tuple[Mapping[str, Any], ...]
    remarks: Mapping[tuple[int, str], str] = {}  # by row and key of the column


def to_markdown(table: Table) -> str:
    """Returns the table in Markdown; "-" is a missing value, "[1]" a remark below."""
    header, *lines = _merged(table, escaped="|")
    text = [f"| {' | '.join(header)} |", "| --- " * len(header) + "|"]
    text += [f"| {' | '.join(line)} |" for line in lines]
    if table.remarks:
        text += ["", *(f"- [{number}] {said}" for said, number in _numbered(table))]
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
        said = [f"{key}: {s}" for (at, key), s in table.remarks.items() if at == index]
        writer.writerow({**row, "remarks": "; ".join(said)})
    return file.getvalue()


def to_json(table: Table, about: Mapping[str, Any]) -> str:
    """Returns one object: `about`, and "rows" and "remarks" as lists of objects."""
    keys = [column.key for column in table.columns]
    rows = [{key: row.get(key) for key in keys} for row in table.rows]
    remarks = [
        {"row": at, "column": key, "text": said}
        for (at, key), said in table.remarks.items()
    ]
    return json.dumps({**about, "rows": rows, "remarks": remarks}, indent=2) + "\n"


def to_latex(table: Table) -> str:
    """Returns a LaTeX `tabular`; remarks are comments above it."""
    header, *lines = _merged(table, escaped="_&%#$")
    text = [f"% [{number}] {said}" for said, number in _numbered(table)]
    text += [rf"\begin{{tabular}}{{{'l' * len(header)}}}", r"\hline"]
    text += [rf"{' & '.join(header)} \\", r"\hline"]
    text += [rf"{' & '.join(line)} \\" for line in lines]
    return "\n".join([*text, r"\hline", r"\end{tabular}", ""])


def to_grid(table: Table) -> dict[str, Any]:
    """Returns header and rows as texts for a page; leading text columns name a row."""
    columns = table.columns
    num_names = next((i for i, c in enumerate(columns) if c.format), len(columns))
    return {
        "names": [column.label for column in columns[:num_names]],
        "groups": [(span[0].group, span) for span in _spans(columns[num_names:])],
        "rows": [
            {"names": [c["text"] for c in row[:num_names]], "cells": row[num_names:]}
            for row in _cells(table)
        ],
        "remarks": _numbered(table),
    }


def of_paper(published: Published) -> Table:
    """Returns a table of the paper as it stands in the paper."""
    columns = tuple(
        Column(
            key,
            key.removesuffix("_db").replace("_", " ") + " (dB)" * key.endswith("_db"),
            ".3f" if key.endswith("_db") else "",
        )
        for key in published.cells[0]
        if key != "errors"
    )
    rows = tuple(
        {**cell, "target": cell["target"] or "untargeted"} if "target" in cell else cell
        for cell in published.cells
    )
    remarks = {
        (index, key): PAPER_ERROR + text
        for index, cell in enumerate(published.cells)
        for key, text in cell.get("errors", {}).items()
    }
    return Table(columns, rows, remarks)


def _numbered(table: Table) -> list[tuple[str, int]]:
    """Returns each different remark with its number."""
    texts = dict.fromkeys(table.remarks.values())
    return [(text, number) for number, text in enumerate(texts, 1)]


def _spans(columns: Sequence[Column]) -> list[list[Column]]:
    """Returns neighbouring columns of one group together."""
    spans = itertools.groupby(enumerate(columns), lambda at: at[1].group or at[0])
    return [[column for _, column in span] for _, span in spans]


def _cells(table: Table) -> Iterator[list[dict[str, Any]]]:
    """Yields rows of cells: text, CSS classes, and the number of a remark."""
    numbers: dict[str | None, int] = dict(_numbered(table))
    for index, row in enumerate(table.rows):
        cells = []
        for key, label, form, _ in table.columns:
            value = row.get(key)
            kinds = {
                "numeric": form,
                "paper": "paper" in label,
                "absent": value is None,
            }
            cells.append(
                {
                    "text": "-" if value is None else format(value, form),
                    "kind": " ".join(kind for kind, holds in kinds.items() if holds),
                    "mark": numbers.get(table.remarks.get((index, key))),
                }
            )
        yield cells


def _merged(table: Table, *, escaped: str) -> Iterator[list[str]]:
    """Yields the header, then the rows, as texts; a group of columns is one cell."""
    escapes = str.maketrans({letter: f"\\{letter}" for letter in escaped})
    spans = _spans(table.columns)
    labels = [" / ".join(column.label for column in span) for span in spans]
    groups = [f"{span[0].group}: " if span[0].group else "" for span in spans]
    header = [group + label for group, label in zip(groups, labels, strict=True)]
    yield [cell.translate(escapes) for cell in header]
    for row in _cells(table):
        texts = (f"{c['text']} [{c['mark']}]" if c["mark"] else c["text"] for c in row)
        cells = [" / ".join(itertools.islice(texts, len(span))) for span in spans]
        yield [cell.translate(escapes) for cell in cells]
