"""A finished run, read back from its work directory."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from uap_jax.audio import SCALINGS
from uap_jax.audio.files import AudioFileError, read_audio
from uap_jax.experiments import artifacts
from uap_jax.experiments.console import UsageError
from uap_jax.models.registry import MODEL_NAMES, default_sample_rate_hz

if TYPE_CHECKING:
    from uap_jax.experiments.config import RunConfig

# Where a run keeps the perturbation in the form of Orbax.
PERTURBATION = Path("checkpoints") / "perturbation"


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
    config = artifacts.read_json(workdir / "config.json")
    result = artifacts.read_json(workdir / "result.json")
    if config is None or result is None:
        name = "config" if config is None else "result"
        raise UsageError(
            "--perturbation: expected the work directory of a finished run, "
            f"got {folder}, which has no {name}.json"
        )
    run = StoredRun(workdir, config, result)
    try:
        known = config["model"] in MODEL_NAMES and config["scaling"] in SCALINGS
        known = known and run.gain > 0 and result["victim"]["name"]
        known = known and "target" in result
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
    seed: int | None = None,
) -> "RunConfig":
    """Returns the settings with which a run would judge its perturbation again.

    Args:
        run: The run.
        model, dataset, data_dir, seed: What is to be different; None: as it was. A
            corpus of another name has its own splits, and a model other than the
            run's, or on another corpus, the training that is usual for it.

    Raises:
        UsageError: What is asked for does not go together, or the settings are not
            those of a run.
    """
    import jax

    from uap_jax.experiments import config, pipeline
    from uap_jax.training.augmentation import Augmentation
    from uap_jax.training.recipes import Recipe

    try:
        stored = dict(run.config)
        asked = {
            key: stored[key]
            for key in ("method", "scaling", "target", "num_attack_clips", "preset")
        }
        asked["model"] = model or stored["model"]
        asked["seed"] = stored["seed"] if seed is None else seed
        # A folder is none of a built-in corpus.
        is_same = data_dir is None or stored["data_dir"] is not None
        if dataset == stored["dataset"] or (dataset is None and is_same):
            asked["dataset"] = stored["dataset"]
            asked["data_dir"] = data_dir or stored["data_dir"]
            asked["split"] = stored["split"]
            asked["group_pattern"] = stored.get("group_pattern")
        else:
            asked["dataset"], asked["data_dir"] = dataset, data_dir
        settings = config.resolve(
            **dataclasses.asdict(pipeline.Request(**asked)),
            on_accelerator=jax.default_backend() != "cpu",
        )
        if (settings.model, settings.dataset) == (stored["model"], stored["dataset"]):
            training = dict(stored["training"])
            augmentation = Augmentation(**training.pop("augmentation"))
            recipe = Recipe(**training, augmentation=augmentation)
            settings = dataclasses.replace(settings, training=recipe)
    except (KeyError, TypeError, ValueError) as error:
        path = run.workdir / "config.json"
        raise UsageError(f"{path}: expected the settings of a run ({error})") from None
    return settings
