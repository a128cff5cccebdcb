"""From a `RunConfig` as given to a complete one: presets, defaults, `--set`."""

import dataclasses
import math
import os
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from uap_jax import environment
from uap_jax.attacks import checks
from uap_jax.attacks.loop import resolve_config
from uap_jax.attacks.methods import resolve_method
from uap_jax.bridges import custom_models
from uap_jax.bridges.deployed import DEPLOYED
from uap_jax.data.corpora import (
    BUILT_IN,
    CORPUS_NAMES,
    DEFAULT_CORPORA,
    usual_recording_s,
)
from uap_jax.data.rooms import SIMULATED
from uap_jax.errors import UsageError, user_mistakes
from uap_jax.files import expanded
from uap_jax.models.registry import (
    MODEL_NAMES,
    default_micro_batch_size,
    default_num_samples,
)
from uap_jax.runs.channels import settings as channel_settings
from uap_jax.runs.config import (
    PRESET_OVERRIDES,
    PRESETS,
    SETTINGS,
    RunConfig,
    variant,
)
from uap_jax.training.recipes import Recipe, recipe_for

_TRUTHS = {"true": True, "false": False, "1": True, "0": False}


def resolve(config: RunConfig, *, on_accelerator: bool | None = None) -> RunConfig:
    """Returns the settings of a run, each checked; a resolved one as it is.

    Args:
        config: As given.
        on_accelerator: Whether the machine is fastest on whole batches, a CPU on those
            that fit its cache; None: as JAX's default device is.

    Raises:
        UsageError: A name or value is not valid, or a custom model cannot be loaded.
    """
    if config.attack is not None:
        return config
    environment.check_devices()
    config = dataclasses.replace(config, model=os.path.expanduser(config.model))
    custom_models.check_model(config.model)
    is_own = config.model not in MODEL_NAMES
    if is_own and config.retrain:
        raise UsageError(f"--retrain: {config.model} is given with its weights")
    with user_mistakes():
        method = resolve_method(config.method)
    for name, setting in SETTINGS.items():
        _check(name, getattr(config, name), setting)
    preset = PRESETS[config.preset]
    data_dir = config.data_dir
    if data_dir is not None:
        # The run may be evaluated from another folder.
        data_dir = str(expanded(data_dir).absolute())
    rooms = config.rooms
    if rooms not in (None, SIMULATED):
        rooms = str(expanded(rooms).absolute())
    filled = dataclasses.replace(
        config,
        rooms=rooms,
        dataset=config.dataset or _default_corpus(config, is_own),
        data_dir=data_dir,
        split=config.split or "official",
        scaling=config.scaling or preset["scaling"],
        num_attack_clips=config.num_attack_clips or preset["num_attack_clips"],
        variant=variant(config),
    )
    _check_corpus(filled)
    if config.channel is not None:
        channel_settings.parse_channel(config.channel)
        if method.no_channel:
            raise UsageError(
                f"--channel: expected none with {config.method}: {method.no_channel}; "
                "penalty and decoupled take one"
            )
    if filled.clip_samples is None:
        filled = dataclasses.replace(filled, clip_samples=_default_length(filled))
    attack, training = apply_overrides(
        (
            method.config_type(),
            None if is_own else recipe_for(config.model, filled.dataset),
        ),
        [
            *PRESET_OVERRIDES.get((config.preset, config.method), ()),
            *_asr_levels(config),
            *config.overrides,
        ],
    )
    if config.method != "greedy" and attack.micro_batch_size is None:
        if on_accelerator is None:
            on_accelerator = jax.default_backend() != "cpu"
        fastest = None if is_own else default_micro_batch_size(config.model)
        size = checks.MAX_SIZE if on_accelerator else fastest
        attack = dataclasses.replace(attack, micro_batch_size=size)
    with user_mistakes():
        resolved = resolve_config(
            attack,
            targeted=config.target is not None,
            num_clips=filled.num_attack_clips,
        )
    # A size that follows from the clips waits for how many of them the corpus has.
    waits = {"batch_size": None} if attack.batch_size is None else {}
    # Last, since loading can take a while.
    loaded = custom_models.load(**filled.model_arguments)
    complete = dataclasses.replace(
        filled,
        attack=dataclasses.replace(resolved, **waits),
        training=training,
        own_model=None if loaded is None else loaded[1],
    )
    channel_settings.check(complete)
    return complete


def _check(name: str, value: Any, setting: Any) -> None:
    if value is None:
        return
    if setting.choices is not None and value not in setting.choices:
        names = ", ".join(setting.choices)
        raise UsageError(f"--{name}: expected one of {names}, got {value!r}")
    if setting.minimum is not None:
        with user_mistakes():
            checks.check_size(f"--{name}", value, at_least=setting.minimum)


def _default_corpus(config: RunConfig, is_own: bool) -> str:
    if is_own:
        entry = DEPLOYED.get(config.model)
        # Of voices, which the built-in words have.
        hears_voices = entry is not None and bool(entry.absent)
        without = config.data_dir is None
        return "synthetic_speech" if hears_voices and without else "folder"
    names = DEFAULT_CORPORA[default_num_samples(config.model)]
    return names[config.data_dir is not None]


def _check_corpus(config: RunConfig) -> None:
    dataset, data_dir = config.dataset, config.data_dir
    if dataset not in CORPUS_NAMES:
        raise UsageError(f"--dataset: expected one of {CORPUS_NAMES}, got {dataset!r}")
    if dataset in BUILT_IN:
        if data_dir is not None:
            raise UsageError(f"--data_dir: {dataset} is built in and takes no folder")
    elif data_dir is None:
        what = "your recordings" if dataset == "folder" else dataset
        raise UsageError(f"--data_dir: expected the folder of {what}, got none")
    elif not Path(data_dir).is_dir() and not (
        dataset == "folder" and Path(data_dir).is_file()
    ):
        raise UsageError(f"--data_dir: expected a folder, got {data_dir}")
    if config.group_pattern is not None and dataset != "folder":
        raise UsageError(f"--group_pattern: {dataset} has its own groups")


def _default_length(config: RunConfig) -> int | None:
    def recording_s() -> float:
        with user_mistakes():
            return usual_recording_s(
                config.dataset, config.data_dir, group_pattern=config.group_pattern
            )

    return custom_models.default_num_samples(
        config.model, recording_s, label=config.label
    )


def _asr_levels(config: RunConfig) -> list[str]:
    if config.asr_levels and config.method != "decoupled":
        raise UsageError(
            f"--asr_levels: {config.method} reaches one success rate, use decoupled"
        )
    levels = ",".join(config.asr_levels)
    return [f"attack.asr_levels={levels}"] if levels else []


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
    hints = {
        f"{name}.{path}": hint
        for name, config in sections.items()
        if config is not None
        for path, hint in _field_types(config).items()
    }
    changes: dict[str, Any] = {}
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals:
            raise UsageError(f"--set: expected key=value, got {override!r}")
        matching = [path for path in hints if f".{path}".endswith(f".{key}")]
        if not matching:
            raise UsageError(f"--set: {key!r} is none of {', '.join(hints)}")
        changes[matching[0]] = _parse(text, hints[matching[0]], key)
    with user_mistakes():
        return (
            _replace(configs[0], "attack.", changes),
            configs[1] and _replace(configs[1], "training.", changes),
        )


def _replace(config: Any, prefix: str, changes: Mapping[str, Any]) -> Any:
    """Returns a config with all changes made at once, in nested configs first.

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


def _field_types(config: Any) -> dict[str, Any]:
    """Returns the types of all fields by their paths, those of nested configs last."""
    outer: dict[str, Any] = {}
    nested: dict[str, Any] = {}
    for name, hint in typing.get_type_hints(type(config)).items():
        if dataclasses.is_dataclass(hint):
            inner = _field_types(getattr(config, name))
            nested |= {f"{name}.{path}": type_ for path, type_ in inner.items()}
        else:
            outer[name] = hint
    return outer | nested


def _parse(text: str, hint: Any, key: str) -> Any:
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if type(None) in options and text.lower() in ("none", "null", ""):
        return None
    if typing.get_origin(hint) is tuple:
        element = typing.get_args(hint)[0]
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
