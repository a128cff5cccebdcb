"""Tables of experiments, from the numbers of trials.

A trial without numbers leaves a gap, never an error.
"""

import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from uap_jax.sweeps.published import Published, published_cell
from uap_jax.sweeps.table_formats import Column, Remark, Table


class Measure(NamedTuple):
    """A number of a trial."""

    label: str
    format: str
    published: str | None = None  # its field in the paper's tables


# By the path in result.json; "last." is of the last line of metrics.jsonl.
MEASURES = {
    "clean_accuracy": Measure("clean accuracy", ".3f"),
    "train.asr": Measure("training ASR", ".3f", "train_asr"),
    "test.asr": Measure("test ASR", ".3f", "test_asr"),
    "test.asr_clean_correct": Measure("test ASR, clips right when clean", ".3f"),
    "test.accuracy_perturbed": Measure(
        "accuracy under attack", ".3f", "accuracy_under_attack"
    ),
    "test.asr_waveform": Measure("one sound", ".3f"),
    "test.asr_shifted": Measure("shifted", ".3f"),
    "control.asr": Measure("noise", ".3f"),
    "test.snr_db": Measure("SNR (dB)", ".1f", "snr_db"),
    "test.snr_ac_db": Measure("mean-free SNR (dB)", ".1f"),
    "test.relative_loudness_db": Measure(
        "loudness (dB)", ".1f", "relative_loudness_db"
    ),
    "num_passes": Measure("passes", ".1f"),
    "converged": Measure("goal reached", ".2f"),
    "passes_to_goal": Measure("passes, where the goal is reached", ".1f"),
    "last.spl_db": Measure("final SPL of v' (dB)", ".1f"),
    "last.objective": Measure("final objective", ".2f"),
}
# No success rate without that of noise of the same RMS.
CONTROLS = {"test.asr": "control.asr"}


class Record(NamedTuple):
    """What a table knows of a trial."""

    facts: Mapping[str, Any]  # its settings, flat: "method", "attack.confidence"
    values: Mapping[str, Any] | None  # its numbers, flat: "test.asr"; None: not there


def mean_table(
    records: Sequence[Record],
    *,
    rows: Sequence[str],
    measures: Sequence[str],
    mean_over: Sequence[str] = (),
    published: Published | None = None,
) -> Table:
    """Means over the trials that are there, a row for each value of the settings.

    Args:
        records: The trials, those that are missing among them.
        rows: Settings that tell rows apart.
        measures: Names in `MEASURES`.
        mean_over: Some of `rows`, over which there are rows of means too.
        published: The paper's table, to stand beside.

    Returns:
        A column for each setting, how many trials are there of how many, then each
        measure, with that of noise beside a success rate.
    """
    groups = list(_grouped(records, rows))
    others = [key for key in rows if key not in mean_over]
    if mean_over:
        for key, members in _grouped(records, others):
            facts = dict(zip(others, key, strict=True)) | dict.fromkeys(
                mean_over, "mean"
            )
            groups.append((tuple(facts[name] for name in rows), members))
    columns, measure = _measured(measures, published)
    measured = [measure(members) for _, members in groups]
    lines = [
        (*key, *_counts(members), *values)
        for (key, members), (values, _) in zip(groups, measured, strict=True)
    ]
    all_columns = (*_keys(rows), *_COUNTS, *columns)
    return Table(all_columns, tuple(lines), _remarks(measured))


def list_table(
    records: Sequence[Record],
    *,
    rows: Sequence[str],
    measures: Sequence[str],
    published: Published | None = None,
) -> Table:
    """A row for each trial, in the order given; arguments as of `mean_table`.

    A test ASR has the ends of its interval beside it, "test.asr.low" and
    "test.asr.high".
    """
    columns, measure = _measured(measures, published, intervals=True)
    measured = [measure([record]) for record in records]
    lines = [
        (*(record.facts.get(key) for key in rows), *values)
        for record, (values, _) in zip(records, measured, strict=True)
    ]
    return Table((*_keys(rows), *columns), tuple(lines), _remarks(measured))


def curve_table(
    records: Sequence[Record],
    *,
    x: str,
    series: Sequence[str],
    measures: Sequence[str],
) -> Table:
    """Means along a setting, with Student's 95 % interval over the seeds.

    The trials of one seed count as one value, their mean. Arguments as of
    `mean_table`; `x` is the setting along the curves, `series` tells curves apart.
    """
    columns = [*_keys([*series, x]), *_COUNTS]
    for name in measures:
        label, form, _ = MEASURES[name]
        columns.append(Column(name, "mean", form, label))
        columns.append(Column(f"{name}.low", "low", form, label))
        columns.append(Column(f"{name}.high", "high", form, label))
        if control := CONTROLS.get(name):
            columns.append(Column(control, "noise", form, label))
    lines = []
    for key, members in _grouped(records, [*series, x]):
        line: list[Any] = [*key, *_counts(members)]
        for name in measures:
            line += _over_seeds(members, name)
            if control := CONTROLS.get(name):
                line.append(mean_of(members, control))
        lines.append(tuple(line))
    return Table(tuple(columns), tuple(lines))


def significance_table(
    comparisons: Sequence[Mapping[str, Any]], *, rows: Sequence[str]
) -> Table:
    """A row for each comparison of two methods.

    Args:
        comparisons: Each with the settings of `rows`, "num_done", "num_trials" (pairs
            of trials), and, where there are pairs, "lower", "higher" (methods),
            "asr_lower", "asr_higher", "num_clips", "z", "p_value", "only_lower",
            "only_higher", "mcnemar_p_value", "published_z".
        rows: Settings that tell comparisons apart.
    """
    columns = (
        *_keys(rows),
        *(count._replace(group="pairs") for count in _COUNTS),
        Column("lower", "lower"),
        Column("higher", "higher"),
        Column("asr_lower", "lower", ".3f", "test ASR"),
        Column("asr_higher", "higher", ".3f", "test ASR"),
        Column("num_clips", "clips", "d"),
        Column("z", "Z", ".2f", "two proportions"),
        Column("p_value", "p", ".2g", "two proportions"),
        Column("only_lower", "lower", "d", "clips that one fools more"),
        Column("only_higher", "higher", "d", "clips that one fools more"),
        Column("mcnemar_p_value", "McNemar p", ".2g"),
        Column("published_z", "paper's Z", ".2f"),
    )
    lines = [tuple(entry.get(c.key) for c in columns) for entry in comparisons]
    return Table(columns, tuple(lines))


def transfer_table(
    records: Sequence[Record], *, rows: Sequence[str], published: bool
) -> Table:
    """Perturbations of one model (rows) judged by every model (columns).

    Args:
        records: With facts "model" and "victim", and values "asr", "control",
            "chance" and "published" (the paper's rate).
        rows: Settings that tell rows apart, "model" among them.
        published: Whether the paper's rates stand beside.
    """
    victims = list(dict.fromkeys(record.facts["victim"] for record in records))
    columns = [*_keys(rows), Column("chance", "class prior", ".3f")]
    for victim in victims:
        columns.append(Column(f"{victim}.asr", "ASR", ".3f", victim))
        columns.append(Column(f"{victim}.control", "noise", ".3f", victim))
        if published:
            columns.append(Column(f"{victim}.published", "paper", ".3f", victim))
    lines = []
    for key, members in _grouped(records, rows):
        line: list[Any] = [*key, mean_of(members, "chance")]
        for victim in victims:
            judged = [member for member in members if member.facts["victim"] == victim]
            line += [mean_of(judged, "asr"), mean_of(judged, "control")]
            line += [mean_of(judged, "published")] * published
        lines.append(tuple(line))
    return Table(tuple(columns), tuple(lines))


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns nested settings or numbers by dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def mean_of(records: Sequence[Record], name: str) -> float | None:
    """Returns the mean of a number over the trials that have it, or None."""
    found = [record.values.get(name) for record in records if record.values]
    numbers = [float(value) for value in found if value is not None]
    return statistics.fmean(numbers) if numbers else None


_COUNTS = (
    Column("num_done", "done", "d", "trials"),
    Column("num_trials", "of", "d", "trials"),
)


def _keys(names: Sequence[str]) -> Iterator[Column]:
    for name in names:
        yield Column(name, name.rpartition(".")[2].replace("_", " "))


def _counts(members: Sequence[Record]) -> tuple[int, int]:
    return sum(member.values is not None for member in members), len(members)


def _grouped(
    records: Sequence[Record], keys: Sequence[str]
) -> Iterator[tuple[tuple[Any, ...], list[Record]]]:
    """Yields values of the settings, in the order of their first trials, and trials."""
    ranks: list[dict[Any, int]] = [{} for _ in keys]
    groups: dict[tuple[Any, ...], list[Record]] = {}
    for record in records:
        values = tuple(record.facts.get(key) for key in keys)
        for value, rank in zip(values, ranks, strict=True):
            rank.setdefault(value, len(rank))
        groups.setdefault(values, []).append(record)

    def place(values: tuple[Any, ...]) -> list[int]:
        return [rank[value] for value, rank in zip(values, ranks, strict=True)]

    for values in sorted(groups, key=place):
        yield values, groups[values]


# Values of a row, and of the paper's what is wrong with them, by column.
_Measured = tuple[list[Any], dict[str, str]]


def _remarks(measured: Sequence[_Measured]) -> tuple[Remark, ...]:
    return tuple(
        Remark(index, key, f"the paper's number: {text}")
        for index, (_, errors) in enumerate(measured)
        for key, text in errors.items()
    )


def _measured(
    measures: Sequence[str], published: Published | None, *, intervals: bool = False
) -> tuple[list[Column], Callable[[Sequence[Record]], _Measured]]:
    """Returns columns of measures, and what fills them for a group of trials."""
    columns: list[Column] = []
    fields: list[str | None] = []
    for name in measures:
        label, form, field = MEASURES[name]
        beside: list[tuple[Column, str | None]] = []
        if intervals and name == "test.asr":
            beside.append((Column(f"{name}.low", "low", form, label), None))
            beside.append((Column(f"{name}.high", "high", form, label), None))
        if control := CONTROLS.get(name):
            beside.append((Column(control, "noise", form, label), None))
        if published and field and any(field in cell for cell in published.cells):
            beside.append((Column(f"paper.{name}", "paper", form, label), field))
        own = Column(name, "here" if beside else label, form, label if beside else "")
        for column, of_paper in [(own, None), *beside]:
            columns.append(column)
            fields.append(of_paper)

    def measure(members: Sequence[Record]) -> _Measured:
        cell = _published(published, members) or {} if any(fields) else {}
        errors = cell.get("errors", {})
        pairs = list(zip(columns, fields, strict=True))
        values = [
            cell.get(field) if field else mean_of(members, column.key)
            for column, field in pairs
        ]
        return values, {c.key: errors[field] for c, field in pairs if field in errors}

    return columns, measure


def _published(
    published: Published | None, members: Sequence[Record]
) -> dict[str, Any] | None:
    """Returns what the paper has for a group of trials."""
    if published is None or not published.cells:
        return None
    known = set().union(*published.cells)
    keys = {
        name: _common([member.facts.get(fact) for member in members])
        for name, fact in _PUBLISHED_KEYS.items()
        if name in known
    }
    if keys.get("target") == "untargeted":
        keys["target"] = None
    return published_cell(published, **keys)


# What tells the paper's cells apart, and the setting that it is.
_PUBLISHED_KEYS = {
    "model": "model",
    "method": "method",
    "target": "target",
    "clip_class": "attack_class",
}


def _common(values: Sequence[Any]) -> Any:
    return values[0] if len(set(values)) == 1 else "mean"


def _over_seeds(members: Sequence[Record], name: str) -> list[float | None]:
    """Returns the mean over seeds, and the ends of its interval."""
    found = [mean_of(own, name) for _, own in _grouped(members, ["seed"])]
    means = [mean for mean in found if mean is not None]
    if not means:
        return [None, None, None]
    mean = statistics.fmean(means)
    if len(means) == 1:
        return [mean, None, None]
    from scipy import stats

    factor = float(stats.t.ppf(0.975, len(means) - 1))
    half = factor * statistics.stdev(means) / math.sqrt(len(means))
    return [mean, mean - half, mean + half]
