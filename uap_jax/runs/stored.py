"""A finished run, read back from its work directory."""

import dataclasses
import typing
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from uap_jax import files
from uap_jax.audio import SCALINGS
from uap_jax.audio.files import AudioFileError, read_audio
from uap_jax.errors import UsageError
from uap_jax.models.registry import default_sample_rate_hz

if TYPE_CHECKING:
    from uap_jax.runs.config import RunConfig

# Where a run keeps the perturbation in the form of Orbax.
PERTURBATION = Path("checkpoints") / "perturbation"
# Far above what any corpus gives.
_MAX_GAIN = 1e6


class StoredRun(NamedTuple):
    """What a run left.

    Attributes:
        workdir: Where.
        config: The content of config.json.
        result: The content of result.json.
    """

    workdir: Path
    config: dict[str, Any]
    result: dict[str, Any]

    @property
    def gain(self) -> float:
        """What the sound is multiplied with, see `evaluation.waveform_gain`."""
        return self.result["test"]["waveform_gain"]

    @property
    def sample_rate_hz(self) -> int:
        """Samples per second of the sound."""
        own = self.config.get("own_model")
        if own is not None:
            return own["sample_rate_hz"]
        return default_sample_rate_hz(self.config["model"])


def read_run(folder: Path) -> StoredRun:
    """Reads a finished run.

    Args:
        folder: Its work directory, or checkpoints/perturbation in it.

    Raises:
        UsageError: It holds no finished run.
    """
    parts = folder.resolve().parts
    workdir = folder
    if parts[-2:] == PERTURBATION.parts:
        workdir = Path(*parts[:-2])
    config = files.read_json(workdir / "config.json")
    result = files.read_json(workdir / "result.json")
    if config is None or result is None:
        name = "config" if config is None else "result"
        raise UsageError(
            "--perturbation: expected the work directory of a finished run, "
            f"got {folder}, which has no {name}.json"
        )
    run = StoredRun(workdir, config, result)
    try:
        known = config["scaling"] in SCALINGS and 0 <= result["test"]["asr"] <= 1
        known = known and isinstance(run.sample_rate_hz, int)
        known = known and 0 < run.sample_rate_hz < 2**31 and 0 < run.gain < _MAX_GAIN
        known = known and isinstance(result["victim"]["name"], str)
        known = known and isinstance(result["target"], str | None)
    except (KeyError, TypeError):
        known = False
    if not known:
        raise UsageError(
            f"--perturbation: expected a whole result.json and config.json in {workdir}"
        )
    return run


def read_sound(run: StoredRun) -> np.ndarray:
    """Returns the perturbation as one sound `[N]`, as perturbation.wav has it.

    Raises:
        UsageError: The file is not there or damaged.
    """
    path = run.workdir / "perturbation.wav"
    try:
        return read_audio(path, sample_rate_hz=run.sample_rate_hz)
    except AudioFileError as error:
        raise UsageError(f"--perturbation: {error}") from None


def settings_of(
    run: StoredRun,
    *,
    model: str | None = None,
    dataset: str | None = None,
    data_dir: str | None = None,
    split: str | None = None,
    group_pattern: str | None = None,
    seed: int | None = None,
) -> "RunConfig":
    """Returns the settings with which a run would judge its perturbation again.

    Args:
        run: The run.
        model, dataset, data_dir, split, group_pattern, seed: What is to be different;
            None: as it was. A corpus of another name has its own splits, and a model
            other than the run's, or on another corpus, the training that is usual for
            it.

    Raises:
        UsageError: What is asked for does not go together, the settings are not those
            of a run, or the model of one's own is no longer the one of the run.
    """
    import jax

    from uap_jax.runs import config, pipeline
    from uap_jax.training.augmentation import Augmentation
    from uap_jax.training.recipes import Recipe

    try:
        stored = dict(run.config)
        asked = {
            key: stored[key]
            for key in ("method", "scaling", "target", "num_attack_clips", "preset")
        }
        asked["num_test_clips"] = stored.get("num_test_clips")
        asked["model"] = model or stored["model"]
        asked["seed"] = stored["seed"] if seed is None else seed
        # A folder is none of a built-in corpus.
        is_same = data_dir is None or stored["data_dir"] is not None
        if dataset == stored["dataset"] or (dataset is None and is_same):
            asked["dataset"] = stored["dataset"]
            asked["data_dir"] = data_dir or stored["data_dir"]
            asked["split"] = split or stored["split"]
            asked["group_pattern"] = group_pattern or stored.get("group_pattern")
        else:
            asked["dataset"], asked["data_dir"] = dataset, data_dir
            asked["split"], asked["group_pattern"] = split, group_pattern
        settings = config.resolve(
            **dataclasses.asdict(pipeline.Request(**asked)),
            on_accelerator=jax.default_backend() != "cpu",
        )
        own = settings.own_model
        asked_for = (settings.model, settings.dataset)
        if own is None and asked_for == (stored["model"], stored["dataset"]):
            training = dict(stored["training"])
            augmentation = Augmentation(**training.pop("augmentation"))
            recipe = Recipe(**training, augmentation=augmentation)
            settings = dataclasses.replace(settings, training=recipe)
        _check_types(settings)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        path = run.workdir / "config.json"
        raise UsageError(f"{path}: expected the settings of a run ({error})") from None
    if own is not None and model is None:
        known = stored.get("own_model") or {}
        if own["fingerprint"] != known.get("fingerprint"):
            raise UsageError(
                f"--perturbation: expected {settings.model} as it was attacked, got "
                "another one of that name; evaluate --model=... judges on it"
            )
    return settings


def _check_types(settings: Any) -> None:
    """Raises TypeError for a setting that is of no type that it can have."""
    for name, kind in typing.get_type_hints(type(settings)).items():
        value = getattr(settings, name)
        if name in ("training", "augmentation"):
            _check_types(value)
        elif name not in ("attack", "own_model"):
            # JSON has 1 for 1.0.
            kinds = kind | int if kind is float else kind
            if not isinstance(value, kinds) or isinstance(value, bool):
                raise TypeError(f"{name}: {str(value)[:80]!r}")
            if isinstance(value, int | float) and not -(2**63) < value < 2**63:
                raise TypeError(f"{name}: {str(value)[:80]}")
