"""From finished trials to the files of a table."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from uap_jax import files
from uap_jax.errors import UsageError
from uap_jax.files import flatten
from uap_jax.sweeps.manifest import Manifest
from uap_jax.sweeps.published import Published, load_published, published_cell
from uap_jax.sweeps.tables import formats, fronts, kinds
from uap_jax.sweeps.tables.channels import (
    WORST_DECILE,
    channel_numbers,
    channels_table,
    levels_in_words,
    moment_table,
    points_of_front,
)
from uap_jax.sweeps.tables.comparisons import Results, compare_methods
from uap_jax.sweeps.tables.formats import Table
from uap_jax.sweeps.tables.kinds import Record
from uap_jax.sweeps.tables.origin import describe, origin_of
from uap_jax.sweeps.trials import Trial, good_result, read_result, transfers

# How tables name the success rates of a result, and their paths in it.
_RATES = {
    "asr": "test.asr",
    "control": "control.asr",
    "same_spectrum": "control.same_spectrum.asr",
}
_CONTROLS = (
    "noise: white noise of the same RMS; same spectrum: the perturbation with its "
    "phases drawn anew."
)
_LEVELS = (
    "at a rate at any moment: the quietest sound whose success over 100 offsets has "
    f"this mean and at least {WORST_DECILE:g} in the worst decile, by lines between "
    "the points of a front; trials that do not reach it are in no mean."
)


def write_tables(
    declared: Manifest, trials: Sequence[Trial], *, workdir: Path, command: str
) -> tuple[Table, dict[str, Any]]:
    """Writes the table of an experiment as far as its trials are done.

    `command` is what was typed; of `declared` the trials are not used.

    Returns:
        The table, and its description and origin. They are in tables/, as Markdown,
        CSV, JSON and LaTeX.

    Raises:
        UsageError: The manifest names a table of the paper that does not fit.
    """
    results = {trial.id: good_result(trial, workdir) for trial in trials}
    try:
        table, notes = _build(declared, trials, results, workdir)
    except ValueError as error:
        raise UsageError(f"{declared.path}: table: {error}") from error
    if any(".at_" in column.key for column in table.columns):
        notes = [*notes, _LEVELS]
    if any("same_spectrum" in column.key for column in table.columns):
        notes = [*notes, _CONTROLS]
    about = {
        "name": declared.name,
        "title": declared.title,
        "scale": declared.scale,
        "command": command,
        "table": dataclasses.asdict(declared.table),
        **origin_of(trials, results, workdir),
        "notes": notes,
    }
    lines = list(describe(about))
    listed = "".join(f"- {line}\n" for line in lines)
    comments = "".join(f"% {line}\n" for line in lines)
    folder = workdir / "tables"
    folder.mkdir(parents=True, exist_ok=True)
    for suffix, text in {
        "csv": formats.to_csv(table),
        "json": formats.to_json(table, about),
        "tex": comments + formats.to_latex(table),
        "md": f"# {declared.title}\n\n{formats.to_markdown(table)}\n{listed}",
    }.items():
        # The command may name folders in bytes that are not UTF-8.
        content = text.encode(errors="replace")
        files.write_bytes(folder / f"{declared.name}.{suffix}", content)
    return table, about


def _build(
    declared: Manifest, trials: Sequence[Trial], results: Results, workdir: Path
) -> tuple[Table, list[str]]:
    """Returns the table, and what to know when reading it."""
    spec = declared.table
    if spec.kind == "transfer":
        return _build_transfer(declared, trials, results, workdir)
    if spec.kind == "front":
        return _build_front(trials, results, workdir, series=spec.rows)
    published = load_published(spec.published) if spec.published else None
    notes = _notes([published])
    if spec.kind == "significance":
        compared = compare_methods(trials, results, spec.rows, published, workdir)
        return kinds.significance_table(list(compared), rows=spec.rows), [
            "Z is the paper's test of two proportions (Appendix C) of the mean rates, "
            "its p here two-sided. It treats the clips of both methods as independent.",
            "McNemar's exact test counts each test clip once, for the method that "
            "fools it towards more of the targets.",
            *notes,
        ]
    records = [_record(trial, results[trial.id], workdir) for trial in trials]
    options: dict[str, Any] = {"measures": spec.measures, "published": published}
    if spec.kind == "channels":
        note = (
            "Means over the trials that are done; spread: standard deviation over the "
            "seeds. Channels are simulated, encoders of codecs real. SNR: mean-free, "
            "of what reaches the clip."
        )
        table = channels_table(records, series=spec.rows)
    elif spec.kind == "moment":
        note = (
            "asr level: the training ASR asked for. Means over the trials that are "
            "done, at 100 offsets of the looped sound."
        )
        points = [
            point
            for trial, record in zip(trials, records, strict=True)
            for point in points_of_front(record, results[trial.id] or {})
        ]
        table = moment_table(records, points, series=spec.rows)
        notes = [*levels_in_words(records, series=spec.rows), *notes]
    elif spec.kind == "list":
        note = "low, high: Wilson's 95 % interval."
        table = kinds.list_table(records, rows=spec.rows, **options)
    elif spec.x is not None:
        note = "low, high: 95 % interval of the mean over the seeds"
        table = kinds.curve_table(
            records, x=spec.x, series=spec.rows, measures=spec.measures
        )
    else:
        note = "Means over the trials that are done"
        several = len({record.facts.get("seed") for record in records}) > 1
        note += "; spread: standard deviation over the seeds." if several else "."
        table = kinds.mean_table(
            records, rows=spec.rows, mean_over=spec.mean_over, **options
        )
    return table, [note, *notes]


def _record(trial: Trial, result: dict[str, Any] | None, workdir: Path) -> Record:
    if result is None:
        return Record(trial.facts, None)
    values = _numbers(result)
    for line in files.read_lines(trial.folder(workdir) / "metrics.jsonl")[-1:]:
        values |= {f"last.{key}": value for key, value in line.items()}
    if result["converged"]:
        values["passes_to_goal"] = result["num_passes"]
    return Record(trial.facts, values)


def _numbers(result: Mapping[str, Any]) -> dict[str, Any]:
    low, high = result["test"].get("asr_ci95") or (None, None)
    numbers = flatten(result) | channel_numbers(result)
    return numbers | {"test.asr.low": low, "test.asr.high": high}


def _build_front(
    trials: Sequence[Trial], results: Results, workdir: Path, *, series: Sequence[str]
) -> tuple[Table, list[str]]:
    """A row for each perturbation; a trial of the decoupled method has several."""
    records = []
    for trial in trials:
        whole = _record(trial, results[trial.id], workdir)
        facts = {**whole.facts, "asr_level": whole.facts.get("attack.target_asr")}
        # A rate that was not reached has a row without numbers.
        points = [
            Record(
                facts | {"asr_level": entry["asr_level"]},
                _numbers(entry) if "test" in entry else None,
            )
            for entry in (results[trial.id] or {}).get("front", ())
        ]
        records += points or [Record(facts, whole.values)]
    shown = [key for key in series if key not in ("model", "target", "asr_level")]
    table = kinds.list_table(
        records, rows=("model", "target", *shown, "asr_level"), measures=fronts.MEASURES
    )
    return table, [
        *fronts.levels_at(table, 0.9, series=series),
        "asr level: the training ASR asked for. low, high: Wilson's 95 % interval.",
    ]


def _build_transfer(
    declared: Manifest, trials: Sequence[Trial], results: Results, workdir: Path
) -> tuple[Table, list[str]]:
    number = declared.table.published
    panels = {
        goal: load_published(f"{number}{panel}") if number else None
        for goal, panel in {"untargeted": "A", "targeted": "B"}.items()
    }

    def rates(result: dict[str, Any] | None) -> dict[str, Any]:
        flat = flatten(result or {})
        return {name: flat.get(path) for name, path in _RATES.items()}

    records = [
        Record(t.facts | {"victim": t.settings["model"]}, rates(results[t.id]))
        for t in trials
    ]
    for transfer in transfers(trials):
        facts = transfer.source.facts | {"victim": transfer.victim.settings["model"]}
        result = read_result(transfer, workdir)
        values = rates(result)
        if result is not None:
            values["chance"] = result["chance"]
        if (panel := panels[facts["goal"]]) is not None:
            cell = published_cell(
                panel,
                source_model=facts["model"],
                victim_model=facts["victim"],
                method=facts["method"],
            )
            values["published"] = cell and cell.get("asr")
        records.append(Record(facts, values))
    table = kinds.transfer_table(
        records, rows=declared.table.rows, published=bool(number)
    )
    return table, [
        "A row is what a perturbation was made for, a column the model that it was "
        "evaluated on; on its own model it is the test ASR of the attack.",
        "Class prior: the targeted rate of a perturbation that has no effect.",
        *_notes(list(panels.values())),
    ]


def _notes(published: Sequence[Published | None]) -> list[str]:
    return [
        f"paper: {table.source}; its models, data and splits are others, and its "
        "targeted numbers are means over all of its classes"
        for table in published
        if table is not None
    ]
