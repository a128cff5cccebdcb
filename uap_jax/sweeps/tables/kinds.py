"""Tables of experiments, from the numbers of trials.

A trial without numbers leaves a gap, never an error.
"""

import math
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from scipy.special import stdtrit

from uap_jax.sweeps.published import Published, published_cell
from uap_jax.sweeps.tables.formats import PAPER_ERROR, Column, Table
from uap_jax.sweeps.tables.measures import CONTROLS, MEASURES

# What tells the paper's cells apart, and the setting that it is.
_PUBLISHED_KEYS = {
    "model": "model",
    "method": "method",
    "target": "target",
    "clip_class": "attack_class",
}
_COUNTS = (
    Column("num_done", "done", "d", "trials"),
    Column("num_trials", "of", "d", "trials"),
)


class Record(NamedTuple):
    """A trial: flat settings ("attack.confidence") and flat numbers ("test.asr")."""

    facts: Mapping[str, Any]
    values: Mapping[str, Any] | None  # None: no result yet


def mean_table(
    records: Sequence[Record],
    *,
    rows: Sequence[str],
    measures: Sequence[str],
    mean_over: Sequence[str] = (),
    published: Published | None = None,
) -> Table:
    """Means over the trials with results, a row for each value of the settings `rows`.

    Over the settings `mean_over`, some of `rows`, there are rows of means too. Where
    trials have several seeds, and with them several victims, the standard deviation of
    the seeds' means stands beside each mean.
    """
    groups = list(grouped(records, rows))
    if mean_over:
        others = [key for key in rows if key not in mean_over]
        means = dict.fromkeys(mean_over, "mean")
        groups += [(key | means, members) for key, members in grouped(records, others)]
    counted = [(key | _counts(members), members) for key, members in groups]
    seeds = {record.facts.get("seed") for record in records}
    spreads = () if "seed" in rows or len(seeds) < 2 else measures
    return _measured(
        (*_keys(rows), *_COUNTS),
        counted,
        measures,
        label="mean" if spreads else "here",
        spreads=spreads,
        published=published,
    )


def list_table(
    records: Sequence[Record],
    *,
    rows: Sequence[str],
    measures: Sequence[str],
    published: Published | None = None,
) -> Table:
    """A row for each trial, in the order given; a test ASR has its interval beside."""
    groups = [({key: r.facts.get(key) for key in rows}, [r]) for r in records]
    return _measured(
        tuple(_keys(rows)),
        groups,
        measures,
        intervals=("test.asr",),
        published=published,
    )


def curve_table(
    records: Sequence[Record], *, x: str, series: Sequence[str], measures: Sequence[str]
) -> Table:
    """Means along the setting `x`, with Student's 95 % interval over the seeds.

    The trials of one seed count as one value, their mean.
    """
    groups = []
    for key, members in grouped(records, [*series, x]):
        values: dict[str, float | None] = {}
        for name in measures:
            values |= _over_seeds(members, name)
            for control in CONTROLS.get(name, ()):
                values[control] = mean_of(members, control)
        groups.append((key | _counts(members), [Record(key, values)]))
    columns = (*_keys([*series, x]), *_COUNTS)
    return _measured(columns, groups, measures, label="mean", intervals=measures)


def significance_table(
    comparisons: Sequence[Mapping[str, Any]], *, rows: Sequence[str]
) -> Table:
    """A row for each comparison of two methods; see `comparisons.compare_methods`."""
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
    return Table(columns, tuple(comparisons))


def transfer_table(
    records: Sequence[Record], *, rows: Sequence[str], published: bool
) -> Table:
    """Perturbations of one model (rows) evaluated on every model (columns).

    Records have the facts "model" and "victim" and the values "asr", "control",
    "same_spectrum", "chance" and "published" (the paper's rate); `rows` has "model".
    """
    victims = list(dict.fromkeys(record.facts["victim"] for record in records))
    measured = {"asr": "ASR", "control": "noise", "same_spectrum": "same spectrum"}
    measured |= {"published": "paper"} if published else {}
    columns = [*_keys(rows), Column("chance", "class prior", ".3f")]
    columns += [
        Column(f"{victim}.{name}", label, ".3f", victim)
        for victim in victims
        for name, label in measured.items()
    ]
    lines = []
    for key, members in grouped(records, rows):
        line = {**key, "chance": mean_of(members, "chance")}
        for victim in victims:
            on_it = [member for member in members if member.facts["victim"] == victim]
            line |= {f"{victim}.{name}": mean_of(on_it, name) for name in measured}
        lines.append(line)
    return Table(tuple(columns), tuple(lines))


def mean_of(records: Iterable[Record], name: str) -> float | None:
    """Returns the mean of a number over the trials that have it, or None."""
    values = [record.values.get(name) for record in records if record.values]
    numbers = [float(value) for value in values if value is not None]
    return statistics.fmean(numbers) if numbers else None


def _keys(names: Iterable[str]) -> Iterator[Column]:
    for name in names:
        yield Column(name, name.rpartition(".")[2].replace("_", " "))


def _counts(members: Sequence[Record]) -> dict[str, int]:
    num_done = sum(member.values is not None for member in members)
    return {"num_done": num_done, "num_trials": len(members)}


def grouped(
    records: Sequence[Record], keys: Sequence[str]
) -> Iterator[tuple[dict[str, Any], list[Record]]]:
    """Yields values of the settings, ordered by their first trials, and trials."""
    ranks: list[dict[Any, int]] = [{} for _ in keys]
    groups: dict[tuple[int, ...], list[Record]] = {}
    for record in records:
        position = tuple(
            rank.setdefault(record.facts.get(key), len(rank))
            for key, rank in zip(keys, ranks, strict=True)
        )
        groups.setdefault(position, []).append(record)
    for _, members in sorted(groups.items()):
        yield {key: members[0].facts.get(key) for key in keys}, members


def _measured(
    columns: tuple[Column, ...],
    groups: Sequence[tuple[dict[str, Any], list[Record]]],
    measures: Sequence[str],
    *,
    label: str = "here",
    intervals: Sequence[str] = (),
    spreads: Sequence[str] = (),
    published: Published | None = None,
) -> Table:
    """Adds measures to groups of trials; beside them controls and the paper's."""
    fields: dict[Column, str | None] = {}  # the paper's; None: measured here
    for name in measures:
        title, form, field = MEASURES[name]
        beside: dict[Column, str | None] = {}
        if name in intervals:
            for end in ("low", "high"):
                beside[Column(f"{name}.{end}", end, form, title)] = None
        if name in spreads:
            beside[Column(f"{name}.spread", "spread", form, title)] = None
        for control, short in CONTROLS.get(name, {}).items():
            beside[Column(control, short, form, title)] = None
        if published and field and any(field in cell for cell in published.cells):
            beside[Column(f"paper.{name}", "paper", form, title)] = field
        alone, first = Column(name, title, form), Column(name, label, form, title)
        fields |= {first if beside else alone: None, **beside}
    rows, remarks = [], {}
    for index, (key, members) in enumerate(groups):
        cell = (any(fields.values()) and _published(published, members)) or {}
        row = dict(key)
        for column, field in fields.items():
            if field:
                row[column.key] = cell.get(field)
            elif column.key.endswith(".spread"):
                row[column.key] = spread_of(members, column.key.removesuffix(".spread"))
            else:
                row[column.key] = mean_of(members, column.key)
            if field and (error := cell.get("errors", {}).get(field)):
                remarks[index, column.key] = PAPER_ERROR + error
        rows.append(row)
    return Table((*columns, *fields), tuple(rows), remarks)


def _published(
    published: Published | None, members: Sequence[Record]
) -> dict[str, Any] | None:
    """Returns the paper's cell for a group of trials."""
    if published is None:
        return None
    known = set().union(*published.cells)
    keys: dict[str, Any] = {}
    for name, fact in _PUBLISHED_KEYS.items():
        if name in known:
            values = {member.facts.get(fact) for member in members}
            keys[name] = values.pop() if len(values) == 1 else "mean"
    if keys.get("target") == "untargeted":
        keys["target"] = None
    return published_cell(published, **keys)


def _seed_means(members: Sequence[Record], name: str) -> list[float]:
    by_seed = [mean_of(same, name) for _, same in grouped(members, ["seed"])]
    return [mean for mean in by_seed if mean is not None]


def spread_of(members: Sequence[Record], name: str) -> float | None:
    """Returns the standard deviation of the seeds' means, None of fewer than two."""
    means = _seed_means(members, name)
    return statistics.stdev(means) if len(means) > 1 else None


def _over_seeds(members: Sequence[Record], name: str) -> dict[str, float | None]:
    """Returns the mean over seeds, and the ends of its interval."""
    means = _seed_means(members, name)
    mean = statistics.fmean(means) if means else None
    low = high = None
    if mean is not None and len(means) > 1:
        half = float(stdtrit(len(means) - 1, 0.975)) * statistics.stdev(means)
        half /= math.sqrt(len(means))
        low, high = mean - half, mean + half
    return {name: mean, f"{name}.low": low, f"{name}.high": high}
