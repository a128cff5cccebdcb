"""A table as Markdown, CSV, JSON and LaTeX."""

import csv
import io
import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple


class Column(NamedTuple):
    """A column; neighbours of one group share a cell where people read."""

    key: str
    label: str
    format: str = ""
    group: str = ""


class Remark(NamedTuple):
    """What to know of one cell."""

    row: int
    column: str  # its key
    text: str


class Table(NamedTuple):
    """Rows of texts, numbers and None for what is missing."""

    columns: tuple[Column, ...]
    rows: tuple[tuple[Any, ...], ...]
    remarks: tuple[Remark, ...] = ()


def to_markdown(table: Table) -> str:
    """Returns the table for reading; "-" is what is missing, "[1]" a remark below."""
    header, *lines = _merged(table)
    text = [f"| {' | '.join(_escape(cell, '|') for cell in header)} |"]
    text.append("| --- " * len(header) + "|")
    text += [f"| {' | '.join(_escape(cell, '|') for cell in line)} |" for line in lines]
    if table.remarks:
        text += ["", *(f"- [{number}] {said}" for said, number in numbered(table))]
    return "\n".join(text) + "\n"


def to_csv(table: Table) -> str:
    """Returns the table for programs, numbers in full; nothing is what is missing.

    Remarks, if there are any, are a last column, "remarks".
    """
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    rest = ["remarks"] if table.remarks else []
    writer.writerow([*(column.key for column in table.columns), *rest])
    for index, row in enumerate(table.rows):
        said = [f"{key}: {text}" for at, key, text in table.remarks if at == index]
        writer.writerow([*row, *(["; ".join(said)] if rest else [])])
    return file.getvalue()


def to_json(table: Table, about: Mapping[str, Any]) -> str:
    """Returns the table as an object: `about`, "rows" and "remarks", objects each."""
    keys = [column.key for column in table.columns]
    rows = [dict(zip(keys, row, strict=True)) for row in table.rows]
    remarks = [remark._asdict() for remark in table.remarks]
    return json.dumps({**about, "rows": rows, "remarks": remarks}, indent=2) + "\n"


def to_latex(table: Table) -> str:
    """Returns the table as a LaTeX `tabular`; remarks are comments above it."""
    header, *lines = _merged(table)
    text = [f"% [{number}] {said}" for said, number in numbered(table)]
    text += [r"\begin{tabular}{" + "l" * len(header) + "}", r"\hline"]
    for index, line in enumerate([header, *lines]):
        cells = (_escape(cell, "_&%#$") for cell in line)
        text.append(" & ".join(cells) + r" \\")
        if not index:
            text.append(r"\hline")
    return "\n".join([*text, r"\hline", r"\end{tabular}"]) + "\n"


def numbered(table: Table) -> list[tuple[str, int]]:
    """Returns each remark once, and the number that stands for it."""
    texts = dict.fromkeys(remark.text for remark in table.remarks)
    return [(text, number) for number, text in enumerate(texts, 1)]


def marks(table: Table) -> dict[tuple[int, str], int]:
    """Returns the numbers of remarks, by row and key of the column."""
    numbers = dict(numbered(table))
    return {(at, key): numbers[text] for at, key, text in table.remarks}


def show(value: Any, column: Column) -> str:
    """Returns a value as people read it; "-" is what is missing."""
    if value is None:
        return "-"
    return format(value, column.format) if column.format else str(value)


def _merged(table: Table) -> Iterator[list[str]]:
    """Yields the header, then the rows, as texts; groups of columns share a cell."""
    spans: list[list[int]] = []
    for index, column in enumerate(table.columns):
        if column.group and spans and table.columns[spans[-1][0]].group == column.group:
            spans[-1].append(index)
        else:
            spans.append([index])
    header = []
    for span in spans:
        labels = " / ".join(table.columns[index].label for index in span)
        group = table.columns[span[0]].group
        header.append(f"{group}: {labels}" if group else labels)
    yield header
    marked = marks(table)
    for place, row in enumerate(table.rows):
        cells = []
        for value, column in zip(row, table.columns, strict=True):
            mark = marked.get((place, column.key))
            cells.append(show(value, column) + (f" [{mark}]" if mark else ""))
        yield [" / ".join(cells[index] for index in span) for span in spans]


def _escape(text: str, special: str) -> str:
    return "".join(f"\\{letter}" if letter in special else letter for letter in text)
