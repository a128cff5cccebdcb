"""Experiments declared in TOML: which trials, and which table; see docs/sweeps.md."""

import dataclasses
import difflib
import itertools
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from uap_jax.errors import UsageError
from uap_jax.files import expanded, flatten
from uap_jax.models.registry import MODEL_NAMES
from uap_jax.runs.config import SETTINGS, RunConfig, as_json, type_of
from uap_jax.runs.resolve import resolve
from uap_jax.sweeps.tables.measures import MEASURES

SCALES = ("paper", "smoke")
_FOLDER = Path(__file__).with_name("manifests")

# Settings that a block lists. Trials of one model, then of one seed, follow each other.
_LISTED = sorted(
    (name for name, setting in SETTINGS.items() if setting.in_manifest),
    key=lambda name: {"model": 0, "seed": 1}.get(name, 2),
)
_CLASSES = ("attack_class", "target")
# Settings of which a manifest may list "none", since TOML has no null.
_OPTIONAL_SETTINGS = ("channel", "rooms")

# The keys of a table by its kind; all are needed but those in _OPTIONAL.
_TABLES = {
    "mean": ("rows", "measures", "mean_over"),
    "list": ("rows", "measures"),
    "curve": ("x", "series", "measures"),
    "front": ("series",),
    "moment": ("series",),
    "channels": ("series",),
    "significance": ("rows",),
    "transfer": ("rows",),
}
_OPTIONAL = ("mean_over", "published")


@dataclasses.dataclass(frozen=True)
class TableSpec:
    """How trials become a table; `kind` is one of `_TABLES`."""

    kind: str
    rows: tuple[str, ...]  # settings that tell rows apart, or curves, or fronts
    measures: tuple[str, ...] = ()  # names in `measures.MEASURES`
    mean_over: tuple[str, ...] = ()  # those of `rows` over which there are means too
    x: str | None = None  # the setting along a curve
    published: str | None = None  # the table of the paper to stand beside


class Block(NamedTuple):
    """One `[[trials]]`: its trials are the product of its lists."""

    where: str  # the file and the block, for errors
    fields: Mapping[str, tuple[Any, ...]]  # values of fields of `RunConfig`
    settings: Mapping[str, tuple[Any, ...]]  # values for `--set`, by dotted keys


class Manifest(NamedTuple):
    """An experiment at one scale; `name` names its files, `title` heads its table."""

    path: Path
    name: str
    title: str
    scale: str
    blocks: tuple[Block, ...]
    table: TableSpec


def names() -> list[str]:
    """Returns the names of the package's manifests."""
    return sorted(path.stem for path in _FOLDER.glob("*.toml"))


def locate(name: str) -> Path:
    """Returns the path of a manifest given by its path or as one of `names()`."""
    is_known = not Path(name).exists() and name in names()
    return _FOLDER / f"{name}.toml" if is_known else expanded(name)


def load(path: Path, *, scale: str) -> Manifest:
    """Reads a manifest.

    Raises:
        UsageError: It is not valid; names the file and the key.
    """
    try:
        declared = tomllib.loads(path.read_bytes().decode())
    except FileNotFoundError:
        raise UsageError(
            f"--manifest: expected a file or one of {', '.join(names())}, got {path}"
        ) from None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: expected TOML in UTF-8: {error}") from None
    where = f"{path}: "
    _check_keys(declared, ("name", "title", "trials", "table"), where)
    blocks = _get(declared, "trials", list, where)
    if not blocks:
        raise _wrong(f"{where}trials", "at least one [[trials]]", blocks)
    name, title = (_get(declared, key, str, where) for key in ("name", "title"))
    if not re.fullmatch(r"[\w-]+", name):
        raise _wrong(f"{where}name", "letters, digits, '_' and '-'", name)
    if not title.isprintable():
        raise _wrong(f"{where}title", "one line", title)
    table = _read_table(_get(declared, "table", dict, where), f"{where}table.")
    read = tuple(
        _read_block(block, f"{where}trials[{index}]", scale)
        for index, block in enumerate(blocks)
    )
    return Manifest(path, name, title, scale, read, table)


def configs(
    manifest: Manifest,
    *,
    corpus_flags: Callable[[str], Mapping[str, Any]],
    class_names: Callable[[str], Sequence[str]],
) -> Iterator[tuple[RunConfig, dict[str, Any]]]:
    """Yields the settings of each trial: as given, and resolved as in config.json.

    `corpus_flags` returns the fields of `RunConfig` on the corpus of a model,
    `class_names` its classes.

    Raises:
        UsageError: A class is in no corpus, or a setting is not valid.
    """
    for block in manifest.blocks:
        settings = [
            [f"{key}={str(v).lower() if isinstance(v, bool) else v}" for v in values]
            for key, values in block.settings.items()
        ]
        for model in block.fields["model"]:
            lists: dict[str, Sequence[Any]] = {**block.fields, "model": (model,)}
            for key in set(_CLASSES) & set(lists):
                where = f"{block.where}.{key}"
                lists[key] = _classes(lists[key], class_names(model), where)
            for values in itertools.product(*lists.values(), *settings):
                fields: dict[str, Any] = dict(zip(lists, values, strict=False))
                fields |= corpus_flags(model)
                for key in _OPTIONAL_SETTINGS:
                    if fields.get(key) == "none":
                        fields[key] = None
                config = RunConfig(**fields, overrides=values[len(lists) :])
                try:
                    yield config, as_json(resolve(config, on_accelerator=False))
                except UsageError as error:
                    raise UsageError(f"{block.where}: {error}") from error


def check_table_keys(manifest: Manifest, known: Sequence[str]) -> None:
    """Raises a UsageError for a setting of the table that no trial has."""
    spec = manifest.table
    for key in (*spec.rows, *([spec.x] if spec.x else ()), *spec.mean_over):
        if key not in known:
            expected = f"some of {', '.join(sorted(known))}"
            raise UsageError(
                f"{manifest.path}: table: got {key!r}, expected {expected}"
            )


def _read_block(declared: Any, where: str, scale: str) -> Block:
    fields, settings = _read_lists(declared, where, ("smoke",))
    smoke = _read_lists(declared.get("smoke", {}), f"{where}.smoke")
    if scale == "smoke":
        fields, settings = fields | smoke[0], settings | smoke[1]
    for key in ("model", "method"):
        if key not in fields:
            raise UsageError(f"{where}.{key}: expected a value, got none")
    for model in fields["model"]:
        if model not in MODEL_NAMES:
            raise _wrong(f"{where}.model", f"one of {', '.join(MODEL_NAMES)}", model)
    return Block(where, {k: fields[k] for k in _LISTED if k in fields}, settings)


def _read_lists(
    declared: Any, where: str, others: tuple[str, ...] = ()
) -> tuple[dict[str, tuple[Any, ...]], dict[str, tuple[Any, ...]]]:
    if not isinstance(declared, dict):
        raise _wrong(where, "a table", declared)
    _check_keys(declared, (*_LISTED, "set", *others), f"{where}.")
    settings = declared.get("set", {})
    if not isinstance(settings, dict):
        raise _wrong(f"{where}.set", "a table", settings)
    return {
        key: _values_of(key, value, f"{where}.{key}")
        for key, value in declared.items()
        if key in _LISTED
    }, {
        key: _values(value, (str, int, float, bool), f"{where}.set.{key}")
        for key, value in flatten(settings).items()
    }


def _read_table(declared: dict[str, Any], where: str) -> TableSpec:
    kind = _get(declared, "kind", str, where)
    if kind not in _TABLES:
        raise _wrong(f"{where}kind", f"one of {', '.join(_TABLES)}", kind)
    keys = (*_TABLES[kind], "published")
    _check_keys(declared, ("kind", *keys), where)
    spec: dict[str, Any] = {}
    for key in (k for k in keys if k in declared or k not in _OPTIONAL):
        if key in ("x", "published"):
            spec[key] = _get(declared, key, str, where)
        else:
            values = _values(declared.get(key), (str,), f"{where}{key}")
            spec["rows" if key == "series" else key] = values
    for name in spec.get("measures", ()):
        if name not in MEASURES:
            # All of them would fill several lines.
            near = difflib.get_close_matches(str(name), MEASURES, n=12, cutoff=0)
            raise _wrong(
                f"{where}measures",
                f"some of the {len(MEASURES)} measures, such as {', '.join(near)}",
                name,
            )
    return TableSpec(kind=kind, **spec)


def _classes(
    entries: Sequence[str], class_names: Sequence[str], where: str
) -> list[str | None]:
    """Returns the classes that entries stand for, each once; None is no class.

    An entry is a class, "each", "first:N" or, as a target, "untargeted"; of several
    separated by "|" the first that the corpus has.
    """
    classes: list[str | None] = []
    for entry in entries:
        for choice in (part.strip() for part in entry.split("|")):
            first = re.fullmatch(r"first:([1-9]\d*)", choice)
            if choice == "untargeted" and where.endswith("target"):
                classes.append(None)
            elif choice == "each" or first:
                classes += class_names[: int(first[1]) if first else None]
            elif choice in class_names:
                classes.append(choice)
            else:
                continue
            break
        else:
            expected = ", ".join((*class_names, "each", "first:N"))
            raise _wrong(where, f"one of {expected}, or a choice as 'a|first:1'", entry)
    return list(dict.fromkeys(classes))


def _check_keys(declared: dict[str, Any], known: Sequence[str], where: str) -> None:
    for key in declared:
        if key not in known:
            raise UsageError(f"{where}{key}: expected one of {', '.join(known)}")


def _get(declared: dict[str, Any], key: str, wanted: type, where: str) -> Any:
    """Returns a value of some type; a text is not empty."""
    value = declared.get(key)
    if not isinstance(value, wanted) or value == "":
        raise _wrong(f"{where}{key}", f"a value ({wanted.__name__})", value)
    return value


def _values_of(key: str, value: Any, where: str) -> tuple[Any, ...]:
    """Returns the values of a setting; of a float also those written as integers."""
    type_ = type_of(key)
    if type_ is not float:
        return _values(value, (type_,), where)
    return tuple(dict.fromkeys(map(float, _values(value, (float, int), where))))


def _values(value: Any, types: tuple[type, ...], where: str) -> tuple[Any, ...]:
    """Returns a list of values, or a value, as a tuple without repetitions."""
    values = value if isinstance(value, list) else [value]
    if not values:
        raise _wrong(where, "at least one value", value)
    for entry in values:
        # True is an integer to Python.
        if type(entry) not in types:
            raise _wrong(where, " or ".join(type_.__name__ for type_ in types), entry)
    return tuple(dict.fromkeys(values))


def _wrong(where: str, expected: str, got: Any) -> UsageError:
    return UsageError(f"{where}: expected {expected}, got {repr(got)[:80]}")
