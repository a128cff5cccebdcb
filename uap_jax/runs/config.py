"""From flags to the settings of a run: presets, overrides, config.json."""

import dataclasses
import json
import math
import sys
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from uap_jax.attacks import DecoupledConfig, GreedyConfig, PenaltyConfig
from uap_jax.attacks.loop import resolve_config
from uap_jax.attacks.methods import METHODS
from uap_jax.audio.box import check_scaling
from uap_jax.data.corpora import BUILT_IN, CORPUS_NAMES, DEFAULT_CORPORA
from uap_jax.errors import UsageError, user_mistakes
from uap_jax.files import fingerprint, flatten
from uap_jax.models.registry import (
    MODEL_NAMES,
    default_micro_batch_size,
    default_num_samples,
    default_sample_rate_hz,
)
from uap_jax.runs import custom_models
from uap_jax.training.recipes import Recipe, recipe_for

# What a preset changes; flags given by hand and --set win over it.
PRESETS: dict[str, dict[str, Any]] = {
    "default": {"scaling": "fixed", "num_attack_clips": 1000},
    "paper": {
        "scaling": "minmax",
        "num_attack_clips": 3000,
    },
}
# What it changes of the attack.
PRESET_OVERRIDES: dict[tuple[str, str], tuple[str, ...]] = {
    ("paper", "penalty"): ("attack.l2_radius=6",),
}

# Settings that may follow the machine; a run that goes on keeps those it began with.
_MACHINE_SETTINGS = ("micro_batch_size",)
_TRUTHS = {"true": True, "false": False, "1": True, "0": False}


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """All settings of a run, resolved.

    Attributes:
        method: Name in `METHODS`.
        model: Name in the registry, or as `custom_models` has it.
        dataset: Name of the corpus.
        data_dir: Folder of its recordings, or None.
        split: Which of the corpus's splits, "official" or "paper".
        group_pattern: For "folder", what of a path names its group, or None.
        scaling: Of waveforms to the box.
        target: Class to say, or None for an untargeted attack.
        num_attack_clips: Clips of the training split that the attack uses, at most.
        num_test_clips: Clips of the test split that it is judged on at most; None: all.
        attack_class: The class these clips are of, or None for all.
        seed: Of weights, batches, augmentation, the choice of clips, and noise.
        preset: Where the settings began.
        variant: A hash of the settings that differ from the defaults, or "".
        attack: Settings of the attack.
        training: Settings of the training, if the model is of the registry.
        own_model: Facts about a custom model, see `custom_models.load`, or None.
    """

    method: str
    model: str
    dataset: str
    data_dir: str | None
    split: str
    group_pattern: str | None
    scaling: str
    target: str | None
    num_attack_clips: int
    num_test_clips: int | None
    attack_class: str | None
    seed: int
    preset: str
    variant: str
    attack: PenaltyConfig | GreedyConfig | DecoupledConfig
    training: Recipe
    own_model: dict[str, Any] | None = None

    @property
    def sample_rate_hz(self) -> int:
        """Samples per second that the model is made for."""
        if self.own_model is not None:
            return self.own_model["sample_rate_hz"]
        return default_sample_rate_hz(self.model)

    @property
    def num_samples(self) -> int:
        """Samples of a clip, N."""
        if self.own_model is not None:
            return self.own_model["num_samples"]
        return default_num_samples(self.model)

    @property
    def run_name(self) -> str:
        """A folder name that tells runs apart."""
        goal = self.target or "untargeted"
        model = self.own_model["name"] if self.own_model is not None else self.model
        parts = (self.method, model, self.dataset, self.scaling, goal)
        name = "-".join((*parts, f"seed{self.seed}"))
        return f"{name}-{self.variant}" if self.variant else name


def resolve(
    *,
    method: str,
    model: str,
    dataset: str | None,
    data_dir: str | None,
    split: str | None,
    group_pattern: str | None = None,
    scaling: str | None,
    target: str | None,
    num_attack_clips: int | None,
    num_test_clips: int | None = None,
    attack_class: str | None = None,
    seed: int,
    preset: str,
    overrides: Sequence[str],
    on_accelerator: bool,
) -> RunConfig:
    """Returns the settings of a run, each checked.

    Args:
        method, model, data_dir, target, num_test_clips, attack_class, seed, preset: As
            in `RunConfig`.
        dataset: None: what fits the model; for one of one's own a folder.
        split: None: "official".
        group_pattern: As in `RunConfig`.
        scaling, num_attack_clips: None: the preset's.
        overrides: Each "key=value" or "section.key=value".
        on_accelerator: Whether the machine is fastest on whole batches; a processor
            is on those that fit its cache.

    Raises:
        UsageError: A name or value is not a valid one, or a model of one's own cannot
            be loaded.
    """
    custom_models.check_model(model)
    is_own = model not in MODEL_NAMES
    chosen = PRESETS[preset]
    if dataset is None:
        built_in, recorded = ("folder",) * 2 if is_own else DEFAULT_CORPORA[model]
        dataset = built_in if data_dir is None else recorded
    if dataset not in CORPUS_NAMES:
        raise UsageError(f"--dataset: expected one of {CORPUS_NAMES}, got {dataset!r}")
    if dataset in BUILT_IN and data_dir is not None:
        raise UsageError(f"--data_dir: {dataset} is built in and takes no folder")
    if dataset not in BUILT_IN:
        if data_dir is None:
            raise UsageError(f"--data_dir: expected the folder of {dataset}, got none")
        is_table = dataset == "folder" and Path(data_dir).is_file()
        if not Path(data_dir).is_dir() and not is_table:
            raise UsageError(f"--data_dir: expected a folder, got {data_dir}")
    if group_pattern is not None and dataset != "folder":
        raise UsageError(f"--group_pattern: {dataset} has groups of its own")
    if num_attack_clips is None:
        num_attack_clips = chosen["num_attack_clips"]
    counts = {"num_attack_clips": num_attack_clips, "num_test_clips": num_test_clips}
    for name, count in counts.items():
        if count is not None and count < 1:
            raise UsageError(f"--{name}: expected 1 or more, got {count}")
    attack, training = apply_overrides(
        (
            METHODS[method].config_type(),
            None if is_own else recipe_for(model, dataset),
        ),
        [*PRESET_OVERRIDES.get((preset, method), ()), *overrides],
    )
    if method != "greedy" and attack.micro_batch_size is None:
        own = None if is_own else default_micro_batch_size(model)
        fastest = sys.maxsize if on_accelerator else own
        attack = dataclasses.replace(attack, micro_batch_size=fastest)
    with user_mistakes():
        check_scaling(scaling or chosen["scaling"])
        resolved = resolve_config(
            attack, targeted=target is not None, num_clips=num_attack_clips
        )
    # A size that follows from the clips waits for how many of them the corpus has.
    waits = {"batch_size": None} if attack.batch_size is None else {}
    attack = dataclasses.replace(resolved, **waits)
    # Last, since it can take a while.
    loaded = custom_models.load(model)
    return RunConfig(
        method=method,
        model=model,
        dataset=dataset,
        data_dir=None if data_dir is None else str(Path(data_dir)),
        split=split or "official",
        group_pattern=group_pattern,
        scaling=scaling or chosen["scaling"],
        target=target,
        num_attack_clips=num_attack_clips,
        num_test_clips=num_test_clips,
        attack_class=attack_class,
        seed=seed,
        preset=preset,
        variant=_variant(
            data_dir,
            split,
            preset,
            num_attack_clips,
            {
                "attack_class": attack_class,
                "group_pattern": group_pattern,
                "num_test_clips": num_test_clips,
            },
            overrides,
        ),
        attack=attack,
        training=training or Recipe(),
        own_model=None if loaded is None else loaded[1],
    )


def apply_overrides(
    configs: tuple[Any, Recipe | None], overrides: Sequence[str]
) -> tuple[Any, Recipe | None]:
    """Applies "key=value" settings to those of the attack and of the training, if any.

    A key is a field, or a path to it of which the beginning may be left out:
    "num_steps", "ddn.num_steps" and "attack.ddn.num_steps" are one. A bare field
    belongs to the first section that has it.

    Raises:
        UsageError: The key is unknown or the value is not of its type.
    """
    sections = dict(zip(("attack", "training"), configs, strict=True))
    fields = {
        f"{name}.{path}": kind
        for name, config in sections.items()
        if config is not None
        for path, kind in _field_types(config).items()
    }
    changes: dict[str, Any] = {}
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals:
            raise UsageError(f"--set: expected key=value, got {override!r}")
        found = [path for path in fields if f".{path}".endswith(f".{key}")]
        if not found:
            raise UsageError(f"--set: {key!r} is none of {', '.join(fields)}")
        changes[found[0]] = _parse(text, fields[found[0]], key)
    with user_mistakes():
        return (
            _replace(configs[0], "attack.", changes),
            configs[1] and _replace(configs[1], "training.", changes),
        )


def _replace(config: Any, prefix: str, changes: Mapping[str, Any]) -> Any:
    """Returns a config with all its changes made at once, in configs within first.

    At once, since a config may check one field against another.
    """
    new = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            new[field.name] = _replace(value, f"{prefix}{field.name}.", changes)
        elif prefix + field.name in changes:
            new[field.name] = changes[prefix + field.name]
    return dataclasses.replace(config, **new)


def as_json(config: RunConfig) -> dict[str, Any]:
    """Returns the settings as they stand in config.json."""
    described = dataclasses.asdict(config)
    # It was trained elsewhere.
    return described if config.own_model is None else described | {"training": None}


def continue_with(
    config: RunConfig, stored: Mapping[str, Any], overrides: Sequence[str] = ()
) -> RunConfig:
    """Returns the settings with which an earlier run of the same command goes on.

    Args:
        config: Of this command.
        stored: The content of the earlier run's config.json.
        overrides: Of this command; what they set by hand is not taken over.

    Raises:
        UsageError: The earlier run had other settings.
    """
    theirs = flatten(stored)
    kept = {
        key: theirs[f"attack.{key}"]
        for key in _MACHINE_SETTINGS
        if not any(key in override for override in overrides)
        # Another type is another setting.
        and isinstance(theirs.get(f"attack.{key}"), int)
    }
    config = dataclasses.replace(
        config, attack=dataclasses.replace(config.attack, **kept)
    )
    mine = flatten(json.loads(json.dumps(as_json(config))))
    differing = [
        f"{key}: {theirs.get(key)} there, {mine.get(key)} now"
        for key in {**theirs, **mine}
        if theirs.get(key) != mine.get(key) and key != "command"
    ]
    if differing:
        raise UsageError(
            "--workdir: holds a run with other settings "
            f"({'; '.join(differing[:3])}); name another folder"
        )
    return config


def _variant(
    data_dir: str | None,
    split: str | None,
    preset: str,
    num_attack_clips: int,
    rare: Mapping[str, Any],
    overrides: Sequence[str],
) -> str:
    others: list[Any] = [
        data_dir and str(Path(data_dir)),
        preset,
        num_attack_clips,
        sorted(overrides),
    ]
    if split not in (None, "official"):
        others.append(split)
    given = {name: value for name, value in rare.items() if value is not None}
    if given:
        others.append(given)
    default = [None, "default", PRESETS["default"]["num_attack_clips"], []]
    return "" if others == default else fingerprint(*others)[:6]


def _field_types(config: Any) -> dict[str, Any]:
    """Returns the types of all fields by their paths, those of configs within last."""
    own: dict[str, Any] = {}
    within: dict[str, Any] = {}
    for name, kind in typing.get_type_hints(type(config)).items():
        if dataclasses.is_dataclass(kind):
            inner = _field_types(getattr(config, name))
            within |= {f"{name}.{path}": type_ for path, type_ in inner.items()}
        else:
            own[name] = kind
    return own | within


def _parse(text: str, kind: Any, key: str) -> Any:
    options = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    if type(None) in options and text.lower() in ("none", "null", ""):
        return None
    if typing.get_origin(kind) is tuple:
        element = typing.get_args(kind)[0]
        return tuple(
            _parse(part.strip(), element, key) for part in text.split(",") if part
        )
    wanted = next(option for option in options if option in (int, float, str, bool))
    try:
        value = _TRUTHS[text.lower()] if wanted is bool else wanted(text)
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError
    except (ValueError, KeyError):
        raise UsageError(
            f"--set: {key} expected {wanted.__name__}, got {text!r}"
        ) from None
    return value
