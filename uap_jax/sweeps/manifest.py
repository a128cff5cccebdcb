"""Experiments declared in TOML: which trials, and how they become a table.

What a manifest may hold is in `docs/sweeps.md`.
"""

import dataclasses
import hashlib
import itertools
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from uap_jax.audio import SCALINGS
from uap_jax.errors import UsageError
from uap_jax.models import MODEL_NAMES
from uap_jax.sweeps.tables import MEASURES

SCALES = ("paper", "smoke")
_FOLDER = Path(__file__).with_name("manifests")
# As `attacks.methods.METHODS` and `config.PRESETS`, which take seconds to import.
METHODS = ("penalty", "greedy", "decoupled")
PRESETS = ("default", "paper")

# One value of a key: what is expected, and whether a value is that.
_Check = tuple[str, Callable[[Any], bool]]


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip()) and value.isprintable()


def _is_size(value: Any, low: int) -> bool:
    # True is an integer to Python.
    is_integer = isinstance(value, int) and not isinstance(value, bool)
    return is_integer and low <= value < 2**31


def _is_number(value: Any) -> bool:
    return isinstance(value, int) and -(2**63) <= value < 2**63


def _one_of(choices: Sequence[str]) -> _Check:
    return f"one of {tuple(choices)}", lambda value: value in tuple(choices)


def _is_class(value: Any) -> bool:
    choice = re.compile(r"first:[1-9]\d{0,5}|(?!first:).+")
    return _is_text(value) and all(
        choice.fullmatch(part.strip()) for part in value.split("|")
    )


_TEXT: _Check = ("a text", _is_text)
_CLASS: _Check = ("a class, 'each', 'first:N', or a choice as 'a|first:1'", _is_class)
_MEASURE = _one_of(tuple(MEASURES))
_NAME: _Check = (
    "a name of letters, digits, '_' and '-'",
    lambda value: isinstance(value, str) and bool(re.fullmatch(r"[\w-]+", value)),
)

# What a block of trials lists, and what each value must be.
_FIELDS: dict[str, _Check] = {
    "model": _one_of(MODEL_NAMES),
    "seed": ("an integer of at least 0", lambda value: _is_size(value, 0)),
    "method": _one_of(METHODS),
    "preset": _one_of(PRESETS),
    "scaling": _one_of(SCALINGS),
    "num_attack_clips": ("an integer of at least 1", lambda value: _is_size(value, 1)),
    "num_test_clips": ("an integer of at least 1", lambda value: _is_size(value, 1)),
    "attack_class": _CLASS,
    "target": (f"{_CLASS[0]}; or 'untargeted'", _is_class),
}

_SETTING: _Check = (
    "a number, text, true or false",
    lambda value: isinstance(value, float) or _is_number(value) or _is_text(value),
)

# Of settings within settings; there are none of more than three names.
_MAX_DEPTH = 10

# What each kind of table is declared by, all of it but what is in _OPTIONAL.
_TABLES: dict[str, dict[str, _Check]] = {
    "mean": {"rows": _TEXT, "measures": _MEASURE, "mean_over": _TEXT},
    "list": {"rows": _TEXT, "measures": _MEASURE},
    "curve": {"x": _TEXT, "series": _TEXT, "measures": _MEASURE},
    "front": {"series": _TEXT},
    "significance": {"rows": _TEXT},
    "transfer": {"rows": _TEXT},
}
_OPTIONAL = ("mean_over",)


@dataclasses.dataclass(frozen=True)
class TableSpec:
    """How trials become a table.

    Attributes:
        kind: "mean", "list", "curve", "front", "significance" or "transfer".
        rows: Settings by whose values rows are told apart; for curves and fronts, the
            series.
        measures: Names in `tables.MEASURES`.
        mean_over: Of the rows' settings, those over which there are means too.
        x: The setting along a curve.
        published: The table of the paper to stand beside, or None.
    """

    kind: str
    rows: tuple[str, ...]
    measures: tuple[str, ...] = ()
    mean_over: tuple[str, ...] = ()
    x: str | None = None
    published: str | None = None


@dataclasses.dataclass(frozen=True)
class Block:
    """One `[[trials]]`: its trials are the product of its lists.

    Attributes:
        where: The file and the block, for errors.
        fields: Lists of what are flags of `run`.
        settings: Lists of what `--set` sets, by dotted keys.
    """

    where: str
    fields: Mapping[str, tuple[Any, ...]]
    settings: Mapping[str, tuple[Any, ...]]


@dataclasses.dataclass(frozen=True)
class Manifest:
    """An experiment at one scale.

    Attributes:
        path: Where it was read.
        name: Names its files.
        title: Stands above its table.
        scale: "paper" or "smoke".
        blocks: What is tried.
        table: What becomes of it.
        digest: A hash of the file.
    """

    path: Path
    name: str
    title: str
    scale: str
    blocks: tuple[Block, ...]
    table: TableSpec
    digest: str


def names() -> list[str]:
    """Returns the names of the package's manifests."""
    return sorted(path.stem for path in _FOLDER.glob("*.toml"))


def locate(name: str) -> Path:
    """Returns the path of a manifest that is named by a path or as one of `names()`."""
    is_known = not Path(name).exists() and name in names()
    return _FOLDER / f"{name}.toml" if is_known else Path(name)


def load(path: Path, *, scale: str) -> Manifest:
    """Reads a manifest.

    Raises:
        UsageError: It is not as it should be; names the file and the key.
    """
    try:
        content = path.read_bytes()
        declared = tomllib.loads(content.decode())
    except FileNotFoundError:
        raise UsageError(
            f"--manifest: expected a file or one of {', '.join(names())}, got {path}"
        ) from None
    except UnicodeDecodeError:
        raise UsageError(f"{path}: expected text in UTF-8") from None
    # Numbers of thousands of digits, and brackets as deep, have errors of their own.
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: expected TOML: {error}") from None
    _check_keys(declared, ("name", "title", "trials", "table"), f"{path}: ")
    blocks = _get(declared, "trials", f"{path}: ")
    if not isinstance(blocks, list) or not blocks:
        raise _wrong(f"{path}: trials", "at least one [[trials]]", blocks)
    return Manifest(
        path=path,
        name=_value(declared, "name", _NAME, f"{path}: "),
        title=_value(declared, "title", _TEXT, f"{path}: "),
        scale=scale,
        blocks=tuple(
            _read_block(block, f"{path}: trials[{index}]", scale)
            for index, block in enumerate(blocks)
        ),
        table=_read_table(_get(declared, "table", f"{path}: "), f"{path}: table"),
        digest=hashlib.sha256(content).hexdigest()[:16],
    )


def requests(
    manifest: Manifest,
    *,
    corpus_flags: Callable[[str], Mapping[str, str | None]],
    class_names: Callable[[str], Sequence[str]],
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields what is asked of each trial: where it stands, fields of a `Request`.

    Args:
        manifest: The experiment.
        corpus_flags: The fields of a request that name a corpus, for a model.
        class_names: The classes of the corpus that a model is used with.

    Raises:
        UsageError: A corpus has none of the classes that are named.
    """
    for block in manifest.blocks:
        settings = [
            [f"{key}={_as_text(value)}" for value in values]
            for key, values in block.settings.items()
        ]
        for model in block.fields["model"]:
            lists: dict[str, Sequence[Any]] = {**block.fields, "model": (model,)}
            for key in ("attack_class", "target"):
                if key in lists:
                    names = class_names(model)
                    lists[key] = _classes(lists[key], names, f"{block.where}.{key}")
            for values in itertools.product(*lists.values(), *settings):
                chosen = dict(zip(lists, values, strict=False))
                overrides = values[len(lists) :]
                yield (
                    block.where,
                    {**chosen, **corpus_flags(model), "overrides": list(overrides)},
                )


def check_table_keys(manifest: Manifest, known: Sequence[str]) -> None:
    """Checks the settings that the table names against those of the trials.

    Raises:
        UsageError: One is none of them.
    """
    spec = manifest.table
    for key in (*spec.rows, *([spec.x] if spec.x else ()), *spec.mean_over):
        if key not in known:
            raise _wrong(f"{manifest.path}: table", f"some of {sorted(known)}", key)


def _read_block(declared: Any, where: str, scale: str) -> Block:
    fields, settings = _read_lists(declared, where, ("smoke",))
    smoke = _read_lists(declared.get("smoke", {}), f"{where}.smoke", ())
    if scale == "smoke":
        fields, settings = fields | smoke[0], settings | smoke[1]
    for key in ("model", "method"):
        if key not in fields:
            raise UsageError(f"{where}.{key}: expected {_FIELDS[key][0]}, got nothing")
    return Block(
        where=where,
        # In one order: trials of one model, then of one seed, follow each other.
        fields={key: fields[key] for key in _FIELDS if key in fields},
        settings=settings,
    )


def _read_lists(
    declared: Any, where: str, others: tuple[str, ...]
) -> tuple[dict[str, tuple[Any, ...]], dict[str, tuple[Any, ...]]]:
    if not isinstance(declared, dict):
        raise _wrong(where, "a table", declared)
    _check_keys(declared, (*_FIELDS, "set", *others), f"{where}.")
    fields = {
        key: _values(declared[key], check, f"{where}.{key}")
        for key, check in _FIELDS.items()
        if key in declared
    }
    declared_settings = declared.get("set", {})
    if not isinstance(declared_settings, dict):
        raise _wrong(f"{where}.set", "a table", declared_settings)
    return fields, dict(_read_settings(declared_settings, f"{where}.set", ""))


def _read_settings(
    declared: dict[str, Any], where: str, prefix: str
) -> Iterator[tuple[str, tuple[Any, ...]]]:
    for key, value in declared.items():
        if isinstance(value, dict) and prefix.count(".") < _MAX_DEPTH:
            yield from _read_settings(value, where, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", _values(value, _SETTING, f"{where}.{prefix}{key}")


def _read_table(declared: Any, where: str) -> TableSpec:
    if not isinstance(declared, dict):
        raise _wrong(where, "a table", declared)
    kind = _value(declared, "kind", _one_of(tuple(_TABLES)), f"{where}.")
    checks = _TABLES[kind]
    _check_keys(declared, ("kind", "published", *checks), f"{where}.")
    found: dict[str, Any] = {}
    for key, check in checks.items():
        if key in declared or key not in _OPTIONAL:
            values = _values(_get(declared, key, f"{where}."), check, f"{where}.{key}")
            found["rows" if key == "series" else key] = values
    if kind == "curve":
        found["x"] = _value(declared, "x", _TEXT, f"{where}.")
    if "published" in declared:
        found["published"] = _value(declared, "published", _NAME, f"{where}.")
    return TableSpec(kind=kind, **found)


def _classes(
    entries: Sequence[str], names: Sequence[str], where: str
) -> list[str | None]:
    """Returns the classes that entries stand for, each once; None is no class."""
    found: dict[str | None, None] = {}
    for entry in entries:
        chosen = None
        for choice in (part.strip() for part in entry.split("|")):
            if choice == "untargeted" and where.endswith("target"):
                chosen = [None]
            elif choice == "each":
                chosen = list(names)
            elif choice.startswith("first:"):
                chosen = list(names[: int(choice.removeprefix("first:"))])
            elif choice in names:
                chosen = [choice]
            if chosen is not None:
                break
        if chosen is None:
            raise _wrong(where, f"one of {', '.join(names)}", entry)
        found |= dict.fromkeys(chosen)
    return list(found)


def _as_text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _check_keys(declared: dict[str, Any], known: Sequence[str], where: str) -> None:
    for key in declared:
        if key not in known:
            raise UsageError(f"{where}{key}: expected one of {', '.join(known)}")


def _get(declared: dict[str, Any], key: str, where: str) -> Any:
    if key not in declared:
        raise UsageError(f"{where}{key}: expected a value, got nothing")
    return declared[key]


def _value(declared: dict[str, Any], key: str, check: _Check, where: str) -> Any:
    value = _get(declared, key, where)
    expected, is_good = check
    if not is_good(value):
        raise _wrong(f"{where}{key}", expected, value)
    return value


def _values(value: Any, check: _Check, where: str) -> tuple[Any, ...]:
    """Returns a list of values, or a value, as a tuple without repetitions."""
    values = value if isinstance(value, list) else [value]
    if not values:
        raise _wrong(where, "at least one value", value)
    expected, is_good = check
    for entry in values:
        if not is_good(entry):
            raise _wrong(where, expected, entry)
    return tuple(dict.fromkeys(values))


def _wrong(where: str, expected: str, got: Any) -> UsageError:
    try:
        text = repr(got)
    # Of numbers of thousands of digits, and of tables as deep.
    except (ValueError, RecursionError):
        text = f"too much of {type(got).__name__}"
    text = text if len(text) <= 80 else f"{text[:77]}..."
    return UsageError(f"{where}: expected {expected}, got {text}")
