"""What a finished run leaves in its work directory, and how it is read back."""

import dataclasses
import typing
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from uap_jax import attacks, checkpoints, files
from uap_jax.attacks.equations import succeeds
from uap_jax.audio import SCALINGS
from uap_jax.audio.box import from_box, to_box
from uap_jax.audio.files import AudioFileError, read_audio, write_wav
from uap_jax.bridges import custom_models
from uap_jax.data.dataset import Dataset, to_waveform
from uap_jax.errors import UsageError
from uap_jax.evaluation import Evaluation
from uap_jax.evaluation.detection import counted
from uap_jax.models.detectors import detected
from uap_jax.models.registry import default_sample_rate_hz
from uap_jax.reporting import Example
from uap_jax.runs.config import RunConfig
from uap_jax.runs.corpus import Clips
from uap_jax.runs.resolve import resolve
from uap_jax.training.augmentation import Augmentation
from uap_jax.training.recipes import Recipe

# The perturbation in the form of Orbax.
PERTURBATION = Path("checkpoints") / "perturbation"
# The clips and the model that the checkpoints are about.
PROBLEM = Path("checkpoints") / "problem.json"
NUM_EXAMPLES = 3
# In place of a class, where the logits are not finite.
NOT_FINITE = "(not finite)"
_CORPUS = ("dataset", "data_dir", "split", "group_pattern", "present")
# Ends of an attack that are no fault.
_GOOD_ENDS = ("converged", "max_passes", "stalled")


class StoredRun(NamedTuple):
    """A finished run: `config` and `result` are the content of its JSON files."""

    workdir: Path
    config: dict[str, Any]
    result: dict[str, Any]

    @property
    def gain(self) -> float:
        """The factor of the sound, see `evaluation.waveform_gain`."""
        return self.result["test"]["waveform_gain"]

    @property
    def sample_rate_hz(self) -> int:
        """Samples per second of the sound."""
        own = self.config.get("own_model")
        return (
            own["sample_rate_hz"]
            if own
            else default_sample_rate_hz(self.config["model"])
        )


def write_perturbation(perturbation: attacks.Perturbation, workdir: Path) -> np.ndarray:
    """Writes perturbation.npy, perturbation.wav and the Orbax form.

    Returns:
        `[N]` the single sound as it reads back from its file.
    """
    checkpoints.save_perturbation(workdir / PERTURBATION, perturbation)
    files.write_array(workdir / "perturbation.npy", np.asarray(perturbation.value))
    rate_hz = perturbation.sample_rate_hz
    if rate_hz is None:
        raise ValueError("perturbation: expected one with a sample rate, got None")
    sound = np.asarray(attacks.perturbation_waveform(perturbation))
    write_wav(workdir / "perturbation.wav", sound, sample_rate_hz=rate_hz)
    return read_audio(workdir / "perturbation.wav", sample_rate_hz=rate_hz)


def write_test_clips(evaluation: Evaluation, clips: Clips, workdir: Path) -> None:
    """Writes test_clips.npz: whether the attack succeeded on each test clip.

    Comparisons of two perturbations on the same clips need it. Of a detector it holds
    the clips that count, see `evaluation.summarize`.
    """
    success = succeeds(evaluation.perturbed, evaluation.clean, clips.target)
    counts = np.ones(len(success), bool)
    if detected(clips.dataset.class_names) is not None:
        counts = counted(evaluation.clean, clips.target)
    files.write_arrays(
        workdir / "test_clips.npz",
        index=np.asarray(clips.test, np.int64)[counts],
        success=success[counts],
    )


def write_examples(
    evaluation: Evaluation,
    clips: Clips,
    perturbation: attacks.Perturbation,
    workdir: Path,
    *,
    scaling: str,
) -> list[Example]:
    """Writes clean and perturbed WAVs of some test clips, at their own level.

    The clips are the first audible ones of classes spread over the list, whether or
    not the attack succeeds. What is said of each is in examples.json.
    """
    dataset, folder = clips.dataset, workdir / "examples"
    folder.mkdir(exist_ok=True)
    examples: list[Example] = []
    described = []
    for row in _choose_examples(evaluation, clips.target):
        clip = int(clips.test[row])
        clean = to_waveform(dataset.clips[clip])
        x, box_scale = to_box(jnp.asarray(clean), scaling=scaling)
        perturbed = from_box(attacks.apply_perturbation(perturbation, x), box_scale)
        example = Example(
            name=str(dataset.names[clip]),
            true_class=dataset.class_names[evaluation.labels[row]],
            clean_prediction=name_of(dataset, evaluation.clean[row]),
            perturbed_prediction=name_of(dataset, evaluation.perturbed[row]),
            clean=clean,
            perturbed=np.clip(np.asarray(perturbed, np.float32), -1.0, 1.0),
            snr_db=float(evaluation.snr_db[row]),
            snr_ac_db=float(evaluation.snr_ac_db[row]),
            relative_loudness_db=float(evaluation.relative_loudness_db[row]),
        )
        entry = dict(vars(example))
        for which in ("clean", "perturbed"):
            name = f"{len(examples) + 1}_{example.true_class}_{which}.wav"
            rate_hz = dataset.sample_rate_hz
            write_wav(folder / name, entry[which], sample_rate_hz=rate_hz)
            entry[which] = name
        examples.append(example)
        described.append(entry)
    files.write_json(folder / "examples.json", {"examples": described})
    return examples


def fault_of(result: dict[str, Any]) -> str | None:
    """Returns why an attack stopped that could not continue, or None."""
    reason = result["stop_reason"]
    if reason in _GOOD_ENDS:
        return None
    return (
        f"the attack stopped in pass {result['num_passes'] + 1}: "
        f"{reason.replace('_', ' ')}"
    )


def read_run(folder: Path) -> StoredRun:
    """Reads a finished run.

    Args:
        folder: Its work directory, or checkpoints/perturbation in it.

    Raises:
        UsageError: It holds no finished run, or a damaged one.
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
        is_whole = (
            config["scaling"] in SCALINGS
            and isinstance(run.sample_rate_hz, int)
            and 0 <= result["test"]["asr"] <= 1
            and 0 < run.gain < np.inf
            and isinstance(result["victim"]["name"], str)
            and isinstance(result["target"], str | None)
        )
    except (KeyError, TypeError):
        is_whole = False
    if not is_whole:
        raise UsageError(
            f"--perturbation: expected a whole result.json and config.json in {workdir}"
        )
    return run


def read_sound(run: StoredRun) -> np.ndarray:
    """Returns the perturbation as one sound `[N]`, from perturbation.wav.

    Raises:
        UsageError: The file is missing or damaged.
    """
    path = run.workdir / "perturbation.wav"
    try:
        return read_audio(path, sample_rate_hz=run.sample_rate_hz)
    except AudioFileError as error:
        raise UsageError(f"--perturbation: {error}") from None


def config_of(run: StoredRun, **changes: Any) -> RunConfig:
    """Returns the settings with which a run would evaluate its perturbation again.

    Args:
        run: The run.
        **changes: Fields of `RunConfig`; None: as it was. A corpus of another name has
            its own splits; another model, or a model on another corpus, the training
            that is usual for it.

    Raises:
        UsageError: The settings do not go together or are damaged, or the custom
            model has changed.
    """
    path = run.workdir / "config.json"
    given = {name: value for name, value in changes.items() if value is not None}
    try:
        first = stored = read_config(run.config)
        # A data_dir cannot be that of a built-in corpus.
        fits = "data_dir" not in given or stored.data_dir is not None
        if given.get("dataset", stored.dataset if fits else "") != stored.dataset:
            other: dict[str, Any] = dict.fromkeys(_CORPUS)
            stored = dataclasses.replace(stored, **other)
        folder = stored.data_dir or "/"
        if "data_dir" not in given and not Path(folder).is_absolute():
            raise UsageError(
                f"--data_dir: expected the folder of {stored.dataset}, since the run "
                f"names {folder} as seen from where it was started"
            )
        asked = dataclasses.replace(
            stored, attack=None, training=None, own_model=None, attack_class=None
        )
        if "model" in given:
            # As long as the perturbation, where the other model takes any length.
            is_free = custom_models.takes_any_length(given["model"])
            length = first.num_samples if is_free else None
            asked = dataclasses.replace(
                asked, clip_samples=length, label=None, present=None
            )
        config = resolve(dataclasses.replace(asked, **given))
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(f"{path}: damaged ({error}); delete the run") from None
    own = config.own_model
    same = (config.model, config.dataset) == (first.model, first.dataset)
    if own is None and same:
        config = dataclasses.replace(config, training=stored.training)
    if own is not None and "model" not in given:
        known = run.config.get("own_model") or {}
        if own["fingerprint"] != known.get("fingerprint"):
            raise UsageError(
                f"--perturbation: expected {config.model} as it was attacked, got "
                "another one of that name; evaluate --model=... evaluates on it"
            )
    return config


def read_config(stored: dict[str, Any]) -> RunConfig:
    """Returns the settings of a config.json; those of the attack stay a mapping.

    Raises:
        ValueError: A setting has no such type.
    """
    known = {field.name for field in dataclasses.fields(RunConfig)}
    training = stored["training"]
    if training is not None:
        augmentation = _typed(Augmentation, training["augmentation"])
        training = _typed(Recipe, training | {"augmentation": augmentation})
    fields = {key: value for key, value in stored.items() if key in known}
    return _typed(RunConfig, fields | {"training": training})


def _typed(record_type: Any, fields: dict[str, Any]) -> Any:
    for name, hint in typing.get_type_hints(record_type).items():
        # JSON has 1 for 1.0.
        types = hint | int if hint is float else hint
        value = fields.get(name)
        if name in fields and types is not Any and not isinstance(value, types):
            raise ValueError(f"{name}: expected {types}, got {str(value)[:80]!r}")
    return record_type(**fields)


def _choose_examples(evaluation: Evaluation, target: int | None) -> list[int]:
    audible = ~np.isnan(evaluation.snr_ac_db)
    present = [c for c in np.unique(evaluation.labels[audible]) if c != target]
    count = min(NUM_EXAMPLES, len(present))
    spread = [present[(2 * i + 1) * len(present) // (2 * count)] for i in range(count)]
    return [int(np.flatnonzero(audible & (evaluation.labels == c))[0]) for c in spread]


def name_of(dataset: Dataset, prediction: int) -> str:
    """Returns the class of a prediction, or `NOT_FINITE`."""
    return dataset.class_names[prediction] if prediction >= 0 else NOT_FINITE
