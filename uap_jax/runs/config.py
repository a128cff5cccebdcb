"""The settings of a run, each declared once.

Flags, `--set`, manifests, config.json, trial ids and `--help` derive from the fields of
`RunConfig`.
"""

import dataclasses
import json
import shlex
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from uap_jax.attacks.methods import resolve_method
from uap_jax.audio import SCALINGS
from uap_jax.bridges.deployed import DEPLOYED
from uap_jax.bridges.model_files import FACTS_EXAMPLE, FILE_SUFFIXES
from uap_jax.data.corpora import CORPUS_NAMES
from uap_jax.errors import UsageError
from uap_jax.files import default_cache_dir, fingerprint, flatten
from uap_jax.models.registry import (
    MODEL_NAMES,
    default_num_samples,
    default_sample_rate_hz,
)

# What a preset changes, and what of a method's settings; flags and --set win over it.
PRESETS: dict[str, dict[str, Any]] = {
    "default": {"scaling": "fixed", "num_attack_clips": 1000},
    "paper": {"scaling": "minmax", "num_attack_clips": 3000},
}
PRESET_OVERRIDES = {("paper", "penalty"): ("attack.l2_radius=6",)}


class Setting(NamedTuple):
    """How a setting is given, and its role."""

    help: str
    choices: tuple[str, ...] | None = None
    minimum: int | None = None
    flag: str | None = None  # None: the field's name; "": follows from other settings
    in_manifest: bool = False  # whether a manifest may list values
    re_evaluation: str = ""  # for --help of `evaluate`, if it may change it
    changes_result: bool = True
    is_stored: bool = True  # in config.json


def _setting(default: Any, help: str, **facts: Any) -> Any:
    return dataclasses.field(
        default=default, metadata={"setting": Setting(help, **facts)}
    )


_DERIVED = {"setting": Setting("", flag="")}


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """All settings of a run; as given, None where nothing was said, or resolved."""

    method: str = _setting(
        "penalty",
        "The attack: penalty, greedy, decoupled; or package.module:NAME, an "
        "attacks.Method of yours.",
        in_manifest=True,
    )
    model: str = _setting(
        "spchcmd",
        f"The classifier to attack: {', '.join(MODEL_NAMES)}, which is trained first; "
        f"one that is in use, from an installed package: {', '.join(DEPLOYED)}; "
        "or a trained one of yours: package.module:function, a function without "
        "arguments that returns it; the folder of a checkpoint of transformers for "
        "audio classification (config.json, safetensors, preprocessor_config.json), "
        "which gets recordings as they are with --scaling=fixed; or a file "
        f"({', '.join(FILE_SUFFIXES)}; ONNX, "
        "TorchScript or torch.export) with its properties in a file of the same name "
        f"and .json, such as {FACTS_EXAMPLE}. With the input range "
        '"waveform" it gets 2 x - 1 of clips x in [0, 1], that is, with '
        "--scaling=fixed, recordings as they are.",
        in_manifest=True,
        re_evaluation="The classifier, as for run. Default: the run's.",
    )
    clip_samples: int | None = _setting(
        None,
        "Samples of a clip, for a model that takes any number of them. Default: the "
        "length of the corpus's recordings (with --dataset=folder their median), or "
        "what the model hears of them.",
        minimum=1,
    )
    label: str | None = _setting(
        None,
        "Of a multi-label model: the label whose detector is attacked. Its classes "
        'are then "no LABEL" and LABEL, which --target takes.',
        re_evaluation="The label, as for run. Default: the run's.",
    )
    present: str | None = _setting(
        None,
        "Of a detector: the classes of the corpus that hold what it detects, separated "
        "by commas. Default: the class of that name, or what the card of a deployed "
        "model says.",
        re_evaluation="The classes of the corpus that hold what a detector detects, as "
        "for run. Default: the run's.",
    )
    dataset: str = _setting(
        None,
        "The corpus: synthetic_speech or synthetic_urban (built in); speech_commands "
        "(every folder of words is a class), speech_commands_paper32 or "
        "speech_commands_kaggle12 (the classes of the paper or of the challenge, "
        "others as _unknown_); tfsr (the challenge's folder, with submissions for "
        "test/audio); urbansound8k, esc10, esc50; folder (your own, with a folder for "
        "each class or a table of path, label, group). Default: what fits the model, "
        "the built-in one or, with --data_dir, speech_commands or urbansound8k.",
        choices=CORPUS_NAMES,
        re_evaluation="The corpus, as for run. Default: the run's.",
    )
    data_dir: str | None = _setting(
        None,
        "The folder of recordings, or with --dataset=folder a CSV table.",
        re_evaluation="The folder of recordings. Default: the run's.",
        changes_result=False,
    )
    split: str = _setting(
        None,
        "The corpus's own split, or, for urbansound8k, the paper's random one, in "
        "which slices of one recording are on both sides.",
        choices=("official", "paper"),
        re_evaluation="As for run. Default: the run's.",
    )
    group_pattern: str | None = _setting(
        None,
        "With --dataset=folder: a regular expression with one (group) that matches the "
        "speaker or source in a recording's path. No group spans two splits.",
        re_evaluation="As for run. Default: the run's.",
    )
    scaling: str = _setting(
        None,
        "How waveforms are scaled to [0, 1]. Default: fixed, or the preset's.",
        choices=SCALINGS,
        in_manifest=True,
    )
    target: str | None = _setting(
        None,
        "The class to output; without it any wrong class counts.",
        in_manifest=True,
    )
    num_attack_clips: int = _setting(
        None,
        "Maximum number of training clips that the attack uses. Default: 1000, or the "
        "preset's.",
        minimum=1,
        in_manifest=True,
    )
    num_test_clips: int | None = _setting(
        None,
        "Maximum number of test clips for the evaluation, with the same share of each "
        "class. Default: all.",
        minimum=1,
        in_manifest=True,
    )
    attack_class: str | None = _setting(
        None,
        "The class of the attack's clips; with --num_attack_clips=1 the attack has a "
        "single recording. Default: clips of all classes.",
        in_manifest=True,
    )
    channel: str | None = _setting(
        None,
        "What the sound passes on its way to a clip, drawn anew for each clip and "
        "step, with --method=penalty or decoupled: a list of moment (the sound is "
        "looped and starts at any moment) or once, band=telephone, band=wideband or "
        "band=LOW_HZ:HIGH_HZ, gain=LOW_DB:HIGH_DB, ambient=LEVEL_DB, rooms (of --rooms "
        "those not kept for the test). Default: nothing; the sound starts with the "
        "clip.",
        in_manifest=True,
    )
    sound_seconds: float | None = _setting(
        None,
        "With --channel: the length of the sound, which moment repeats. Default: that "
        "of a clip.",
        in_manifest=True,
    )
    channel_table: bool | None = _setting(
        None,
        "Whether to evaluate the sound after channels too, all simulated: at 100 "
        "offsets, at any moment, in the telephone band, with --rooms in rooms; some "
        "10,000 evaluations of the model. Default: yes for a model of at most 5 "
        "million weights, for others with --channel, --rooms or --codec_table; in a "
        "sweep with one of these only.",
        in_manifest=True,
        re_evaluation="Whether to evaluate the sound after channels too. Default: as "
        "for run.",
        changes_result=False,
    )
    rooms: str | None = _setting(
        None,
        "Room responses for --channel=rooms and the table of results: simulated (250 "
        "shoeboxes by pyroomacoustics, two minutes once; pip install "
        "'uap_jax[rooms]'), or a folder of measured ones, with a subfolder or a file "
        "for each room. Default: simulated if --channel has rooms, else none.",
        re_evaluation="Room responses, as for run. Default: the run's.",
        in_manifest=True,
    )
    codec_table: bool | None = _setting(
        None,
        "Whether to evaluate the sound through real encoders too: MP3, Opus, Vorbis, "
        "mu-law, A-law, ADPCM, GSM; about a minute. Default: no.",
        in_manifest=True,
        re_evaluation="Whether to evaluate the sound through real encoders too. "
        "Default: as for run.",
        changes_result=False,
    )
    seed: int = _setting(
        0,
        "Random seed.",
        minimum=0,
        in_manifest=True,
        re_evaluation="Random seed of the model's training, of controls and of shifts. "
        "Default: the run's.",
    )
    retrain: bool | None = _setting(
        None,
        "Whether to train the classifier here although uap_jax comes with it trained.",
        re_evaluation="Whether to train the classifier here although uap_jax comes "
        "with it trained. Default: the run's.",
    )
    preset: str = _setting(
        "default",
        "Base settings; paper: minmax scaling, 3000 clips, l2 radius 6.",
        choices=tuple(PRESETS),
        in_manifest=True,
        changes_result=False,
    )
    asr_levels: tuple[str, ...] = _setting(
        (),
        "With --method=decoupled: success rates whose quietest perturbations are "
        "searched, for example 0.5,0.7,0.9; the same as "
        "--set attack.asr_levels=0.5,0.7,0.9.",
        is_stored=False,
    )
    overrides: tuple[str, ...] = _setting(
        (),
        "key=value, any setting of the attack, training or augmentation, for example "
        "attack.learning_rate=0.01 or training.num_clips_seen=50000. May be repeated.",
        flag="set",
        is_stored=False,
    )
    # A hash of the settings that the run's name does not show.
    variant: str = _setting("", "", flag="", changes_result=False)
    # Settings of the attack, of the training if any, and facts about a custom model.
    attack: Any = dataclasses.field(default=None, metadata=_DERIVED)
    training: Any = dataclasses.field(default=None, metadata=_DERIVED)
    own_model: Any = dataclasses.field(default=None, metadata=_DERIVED)

    @property
    def sample_rate_hz(self) -> int:
        """Sample rate of the model; of a resolved config."""
        own = self.own_model
        return own["sample_rate_hz"] if own else default_sample_rate_hz(self.model)

    @property
    def num_samples(self) -> int:
        """Samples of a clip, N; of a resolved config."""
        own = self.own_model
        return own["num_samples"] if own else default_num_samples(self.model)

    @property
    def model_arguments(self) -> dict[str, Any]:
        """Arguments of `custom_models.load`; of a resolved config."""
        return {
            "model": self.model,
            "label": self.label,
            "num_samples": self.clip_samples,
        }

    @property
    def run_name(self) -> str:
        """Folder name that tells runs apart; of a resolved config."""
        model = self.own_model["name"] if self.own_model else self.model
        method = resolve_method(self.method).name
        goal = self.target or "untargeted"
        parts = (method, model, self.dataset, self.scaling, goal, f"seed{self.seed}")
        name = "-".join(str(part) for part in parts)
        return f"{name}-{self.variant}" if self.variant else name


# By field.
SETTINGS: dict[str, Setting] = {
    field.name: field.metadata["setting"] for field in dataclasses.fields(RunConfig)
}
FLAGS: dict[str, str] = {
    name: name if setting.flag is None else setting.flag
    for name, setting in SETTINGS.items()
    if setting.flag != ""
}
# Settings that follow the machine; a resumed run keeps those it began with.
MACHINE_SUFFIX = "micro_batch_size"
# Tables that a run may have beside its other numbers.
_TABLES = ("channel_table", "codec_table")
# What the name of a run shows.
_NAMED = ("method", "model", "dataset", "scaling", "target", "seed")


def variant(config: RunConfig) -> str:
    """Returns a hash of a given config's settings that its name does not show."""
    default = RunConfig()
    others = {
        name: getattr(config, name)
        for name in FLAGS
        if name not in _NAMED and getattr(config, name) != getattr(default, name)
    }
    return fingerprint(others)[:6] if others else ""


def as_json(config: RunConfig) -> dict[str, Any]:
    """Returns the settings as they stand in config.json."""
    described = dataclasses.asdict(config)
    return {name: described[name] for name in SETTINGS if SETTINGS[name].is_stored}


def resume_from(config: RunConfig, stored: Mapping[str, Any]) -> RunConfig:
    """Returns the settings with which an earlier run of the same command resumes.

    Args:
        config: Of this command, resolved.
        stored: The content of the earlier run's config.json.

    Raises:
        UsageError: The earlier run had other settings.
    """
    attack = stored.get("attack")
    size = attack.get(MACHINE_SUFFIX) if isinstance(attack, dict) else None
    is_given = any(MACHINE_SUFFIX in override for override in config.overrides)
    # Another type is another setting.
    if isinstance(size, int) and not is_given:
        attack = dataclasses.replace(config.attack, **{MACHINE_SUFFIX: size})
        config = dataclasses.replace(config, attack=attack)
    described = json.loads(json.dumps(as_json(config)))
    mine, theirs = flatten(described), flatten(stored)
    differing = [
        f"{key}: {theirs.get(key)} there, {mine.get(key)} now"
        for key in {**theirs, **mine}
        if theirs.get(key) != mine.get(key)
        and key != "command"
        and (key not in SETTINGS or SETTINGS[key].changes_result)
    ]
    if differing:
        raise UsageError(
            "--workdir: holds a run with other settings "
            f"({'; '.join(differing[:3])}); name another folder"
        )
    return config


def command(
    config: RunConfig, workdir: Path, *, cache_dir: Path, strict: bool = False
) -> str:
    """Returns the command that carries out a run."""
    default = RunConfig()
    words = []
    for name, flag in FLAGS.items():
        value = getattr(config, name)
        if name == "overrides":
            words += [f"--{flag}={override}" for override in value]
        elif name == "asr_levels":
            words += [f"--{flag}={','.join(value)}"] if value else []
        elif value != getattr(default, name) or name in ("method", "model"):
            words.append(f"--{flag}={value}")
    words.append(f"--workdir={workdir}")
    if cache_dir != default_cache_dir():
        words.append(f"--cache_dir={cache_dir}")
    words += ["--strict"] if strict else []
    return "python -m uap_jax.experiments.run " + shlex.join(words)


def trial_id(described: Mapping[str, Any]) -> str:
    """Returns a hash of the settings of `as_json` that change a result or add to it.

    What is None is left out, so that a new setting that is off changes no id.
    """
    return fingerprint(
        {
            key: value
            for key, value in flatten(described).items()
            if value is not None
            and (key not in SETTINGS or SETTINGS[key].changes_result or key in _TABLES)
            and not key.endswith(MACHINE_SUFFIX)
        }
    )


def type_of(name: str) -> Any:
    """Returns the type of a setting's values: str, int, bool or tuple."""
    hint = typing.get_type_hints(RunConfig)[name]
    options = typing.get_args(hint) if type(None) in typing.get_args(hint) else (hint,)
    return next(typing.get_origin(option) or option for option in options)
