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


class Table(NamedTuple):
    """Rows of texts, numbers and None for what is missing."""

    columns: tuple[Column, ...]
    rows: tuple[tuple[Any, ...], ...]


def to_markdown(table: Table) -> str:
    """Returns the table for reading; "-" is what is missing."""
    header, *lines = _merged(table)
    text = [f"| {' | '.join(_escape(cell, '|') for cell in header)} |"]
    text.append("| --- " * len(header) + "|")
    text += [f"| {' | '.join(_escape(cell, '|') for cell in line)} |" for line in lines]
    return "\n".join(text) + "\n"


def to_csv(table: Table) -> str:
    """Returns the table for programs, numbers in full; nothing is what is missing."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([column.key for column in table.columns])
    writer.writerows(table.rows)
    return file.getvalue()


def to_json(table: Table, about: Mapping[str, Any]) -> str:
    """Returns the table as an object: `about` and "rows", one object each."""
    keys = [column.key for column in table.columns]
    rows = [dict(zip(keys, row, strict=True)) for row in table.rows]
    return json.dumps({**about, "rows": rows}, indent=2) + "\n"


def to_latex(table: Table) -> str:
    """Returns the table as a LaTeX `tabular`."""
    header, *lines = _merged(table)
    text = [r"\begin{tabular}{" + "l" * len(header) + "}", r"\hline"]
    for index, line in enumerate([header, *lines]):
        cells = (_escape(cell, "_&%#$") for cell in line)
        text.append(" & ".join(cells) + r" \\")
        if not index:
            text.append(r"\hline")
    return "\n".join([*text, r"\hline", r"\end{tabular}"]) + "\n"


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
    for row in table.rows:
        yield [
            " / ".join(_shown(row[index], table.columns[index]) for index in span)
            for span in spans
        ]


def _shown(value: Any, column: Column) -> str:
    if value is None:
        return "-"
    return format(value, column.format) if column.format else str(value)


def _escape(text: str, special: str) -> str:
    return "".join(f"\\{letter}" if letter in special else letter for letter in text)
