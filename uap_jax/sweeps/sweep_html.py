"""The page of a sweep: every table and figure, ours beside the paper's, and sounds."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

from uap_jax.reporting import pages
from uap_jax.sweeps import figures, formats
from uap_jax.sweeps.formats import Column, Remark, Table
from uap_jax.sweeps.published import Published

_TEMPLATE = "sweep_report.html"
MAX_BYTES = 15_000_000


@dataclasses.dataclass(frozen=True)
class Corpus:
    """A corpus that trials of the sweep are on.

    Attributes:
        name: As `--dataset` names it.
        split: Which of its splits.
        num_classes: C.
        num_samples: Samples of a clip, N.
        fingerprint: A hash of its clips, or None.
        is_synthetic: Whether it is made by the package and holds no recordings.
    """

    name: str
    split: str
    num_classes: int | None
    num_samples: int
    fingerprint: str | None
    is_synthetic: bool


@dataclasses.dataclass(frozen=True)
class Failure:
    """Work that failed.

    Attributes:
        label: What it is.
        error: What went wrong, in a line.
        log: Where the log is, in the sweep's folder.
        last_lines: The end of the log.
        command: What runs it alone, or "".
    """

    label: str
    error: str
    log: str
    last_lines: str
    command: str


@dataclasses.dataclass(frozen=True)
class Section:
    """One table or figure.

    Attributes:
        about: What stands with the table in `tables/<name>.json`.
        table: It.
        corpora: Names of the corpora that its trials are on.
        paper_corpora: Of each of these, in order, what the paper has in its place, or
            None where it is the same.
        published: The paper's tables beside it.
        missing: Labels of what is to be done and has not failed.
        failures: What failed.
    """

    about: Mapping[str, Any]
    table: Table
    corpora: Sequence[str] = ()
    paper_corpora: Sequence[str | None] = ()
    published: Sequence[Published] = ()
    missing: Sequence[str] = ()
    failures: Sequence[Failure] = ()


@dataclasses.dataclass(frozen=True)
class Perturbed:
    """A clip as one method perturbs it.

    Attributes:
        method: "penalty" or "greedy".
        prediction: The class that the model names.
        snr_db: Signal-to-noise ratio with the resting level.
        snr_ac_db: Signal-to-noise ratio of the mean-free signals.
        relative_loudness_db: Peak of what was added relative to the clip's.
        audio: A WAV file.
    """

    method: str
    prediction: str
    snr_db: float | None
    snr_ac_db: float | None
    relative_loudness_db: float | None
    audio: bytes


@dataclasses.dataclass(frozen=True)
class SweepExample:
    """A test clip, clean and as attacks on one model towards one goal perturb it.

    Attributes:
        model: The model.
        target: The class to say, or None.
        corpus: Name of the corpus.
        name: Identifies the clip.
        true_class: Its label.
        clean_prediction: The class that the model names for the clean clip.
        clean: A WAV file.
        perturbed: The attacks.
    """

    model: str
    target: str | None
    corpus: str
    name: str
    true_class: str
    clean_prediction: str
    clean: bytes
    perturbed: Sequence[Perturbed]

    @property
    def num_bytes(self) -> int:
        """How much of a page its sounds take."""
        sounds = [self.clean, *(each.audio for each in self.perturbed)]
        return sum(-(-len(sound) // 3) * 4 for sound in sounds)


@dataclasses.dataclass(frozen=True)
class SweepData:
    """All that the report of a sweep shows.

    Attributes:
        name: Of the sweep.
        sections: Its tables and figures, in order.
        not_begun: Names of those of the paper that are not among them.
        num_done, num_trials: Attacks, each counted once.
        corpora: What the trials are on.
        hardware, versions: A line each.
        examples: Sounds, those to show first at the beginning.
        published_examples: The paper's tables of examples.
    """

    name: str
    sections: Sequence[Section]
    not_begun: Sequence[str]
    num_done: int
    num_trials: int
    corpora: Sequence[Corpus]
    hardware: Sequence[str]
    versions: Sequence[str]
    examples: Sequence[SweepExample] = ()
    published_examples: Sequence[Published] = ()


def write_sweep_report(
    path: str | os.PathLike[str], data: SweepData, *, max_bytes: int = MAX_BYTES
) -> None:
    """Writes one HTML file that needs no other file and no network.

    The same data gives the same bytes. The file appears whole or not at all.

    Args:
        path: Where to write; an existing file is replaced.
        data: The sweep.
        max_bytes: Of the file. Examples for which there is no room are left out, and
            the page says so.
    """
    pages.write(path, render_sweep_report(data, max_bytes=max_bytes))


def render_sweep_report(data: SweepData, *, max_bytes: int = MAX_BYTES) -> str:
    """Returns the page that `write_sweep_report` writes."""
    synthetic = [corpus.name for corpus in data.corpora if corpus.is_synthetic]
    synthetic = list(dict.fromkeys(synthetic))
    sections = [_describe(section, synthetic) for section in data.sections]
    published = [
        {"about": table, "grid": _grid(_as_table(table))}
        for table in data.published_examples
        if table.cells
    ]

    def render(shown: Sequence[SweepExample]) -> str:
        return pages.render(
            _TEMPLATE,
            data=data,
            sections=sections,
            synthetic=synthetic,
            num_failed=len({f.log for s in data.sections for f in s.failures}),
            examples=[_describe_example(example) for example in shown],
            num_left_out=len(data.examples) - len(shown),
            max_bytes=max_bytes,
            published_examples=published,
        )

    room = max_bytes - len(render([_silenced(each) for each in data.examples]).encode())
    shown = []
    for example in data.examples:
        if example.num_bytes <= room:
            room -= example.num_bytes
            shown.append(example)
    return render(shown)


def _silenced(example: SweepExample) -> SweepExample:
    perturbed = [dataclasses.replace(each, audio=b"") for each in example.perturbed]
    return dataclasses.replace(example, clean=b"", perturbed=perturbed)


def _describe(section: Section, synthetic: Sequence[str]) -> dict[str, Any]:
    """Returns what the template shows of a table."""
    about = section.about
    spec = about["table"]
    drawn = None
    if spec["kind"] == "curve":
        drawn = figures.draw_curves(
            section.table,
            x=spec["x"],
            series=spec["rows"],
            measures=spec["measures"],
            title=about["title"],
        )
    elif spec["kind"] == "front":
        drawn = figures.draw_fronts(
            section.table, series=spec["rows"], title=about["title"]
        )
    accuracies = [
        f"{model}, seed {seed}: {rate:.3f}"
        for model, rates in about["clean_accuracy"].items()
        for seed, rate in rates.items()
    ]
    corpora = list(zip(section.corpora, section.paper_corpora, strict=True))
    return {
        "about": about,
        "grid": _grid(section.table),
        "figures": drawn,
        "published": [table for table in section.published if table.cells],
        "corpora": section.corpora,
        "is_synthetic": any(name in synthetic for name in section.corpora),
        "others": [(name, paper) for name, paper in corpora if paper is not None],
        "missing": section.missing,
        "failures": section.failures,
        "clean_accuracy": accuracies,
    }


def _grid(table: Table) -> dict[str, Any]:
    """Returns header and rows of a table as texts; leading texts name a row."""
    columns = table.columns
    num_names = next((i for i, c in enumerate(columns) if c.format), len(columns))
    names, numbers = columns[:num_names], columns[num_names:]
    marked = formats.marks(table)
    rows = [
        {
            "names": [formats.show(row.get(column.key), column) for column in names],
            "cells": [
                {
                    "text": formats.show(row.get(column.key), column),
                    "kind": _kind(row.get(column.key), column),
                    "mark": marked.get((index, column.key)),
                }
                for column in numbers
            ],
        }
        for index, row in enumerate(table.rows)
    ]
    return {
        "names": [column.label for column in names],
        "groups": [(span[0].group, span) for span in formats.spans(numbers)],
        "rows": rows,
        "remarks": formats.numbered(table),
    }


def _kind(value: Any, column: Column) -> str:
    """Returns the CSS classes of a cell."""
    kinds = ["numeric"] if column.format else []
    kinds += ["paper"] if "paper" in column.label else []
    kinds += ["absent"] if value is None else []
    return " ".join(kinds)


def _as_table(published: Published) -> Table:
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
        Remark(place, key, f"the paper's number: {text}")
        for place, cell in enumerate(published.cells)
        for key, text in cell.get("errors", {}).items()
    )
    return Table(columns, rows, remarks)


def _describe_example(example: SweepExample) -> dict[str, Any]:
    goal = "untargeted" if example.target is None else f'targeted at "{example.target}"'
    return {
        **vars(example),
        "goal": goal,
        "clean": pages.audio_uri(example.clean),
        "perturbed": [
            {**vars(each), "audio": pages.audio_uri(each.audio)}
            for each in example.perturbed
        ],
    }
