"""Trained classifiers, for a `--model` that is no architecture of the registry.

It names a file (see `model_files`), a folder with a checkpoint of transformers (see
`hugging_face`), a deployed classifier (see `deployed`) or an entry point,
`package.module:function`: a function without arguments that returns a
`models.Classifier`, as bridges do too. One that takes clips of any length has an
argument `num_samples` with a default.
"""

import contextlib
import dataclasses
import functools
import hashlib
import importlib
import inspect
import json
import re
import traceback
from collections.abc import Callable, Generator, Iterable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from uap_jax.bridges import checks, hugging_face, probes
from uap_jax.bridges.deployed import DEPLOYED, package_folder
from uap_jax.bridges.model_files import FILE_SUFFIXES, facts_path, read_classifier
from uap_jax.errors import UsageError
from uap_jax.models import MODEL_NAMES, Classifier
from uap_jax.models.detectors import detector

# Parts of file names whose lines do not help the author of a model.
_NOT_OF_USERS = ("importlib", "site-packages", str(Path(__file__).parents[1]))
# The exception that a callback of JAX raised: the unindented end of a traceback.
_RAISED = re.compile(r"Traceback \(most recent call last\):\n(?: .*\n)+(\S[\s\S]*)")
_ENTRY_POINT = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")


def check_model(model: str) -> None:
    """Checks the value of `--model`, as far as possible without loading anything.

    Raises:
        UsageError: It is no name, entry point or file, or there is no such file.
    """
    if model in MODEL_NAMES or _is_entry_point(model):
        return
    if Path(model).is_dir():
        if not hugging_face.is_checkpoint(Path(model)):
            raise UsageError(
                "--model: expected a file, or a folder with config.json, got "
                f"{model} without it"
            )
        return
    if Path(model).suffix.lower() not in FILE_SUFFIXES:
        raise UsageError(
            f"--model: expected one of {', '.join((*MODEL_NAMES, *DEPLOYED))}, "
            f"package.module:function, a file {', '.join(FILE_SUFFIXES)}, or the "
            f"folder of a checkpoint of transformers, got {model!r}"
        )
    if not Path(model).is_file():
        raise UsageError(f"--model: expected a file, got {model}, which is none")


def takes_any_length(model: str) -> bool:
    """Returns whether the length of a clip can be chosen."""
    if model in MODEL_NAMES:
        return False
    if _is_entry_point(model):
        return _takes_any_length(_function_of(model))
    return Path(model).expanduser().is_dir()


def default_num_samples(
    model: str, recording_s: Callable[[], float], *, label: str | None = None
) -> int | None:
    """Returns the samples of a clip for a model whose clips are as the recordings.

    None: the model has a length.
    """
    if not takes_any_length(model):
        return None
    if _is_entry_point(model):
        rate_hz = _load(model, None, label, None)[0].sample_rate_hz
        return max(1, round(recording_s() * (rate_hz or 0)))
    return hugging_face.default_num_samples(Path(model), recording_s())


def load(
    model: str, *, label: str | None = None, num_samples: int | None = None
) -> tuple[Classifier, dict[str, Any]] | None:
    """Returns a trained classifier and its facts, or None for a name of the registry.

    It is loaded once in a process, a file again when it has changed.

    Args:
        model: The value of `--model`.
        label: Of a multi-label network: the one that is to be detected.
        num_samples: Samples of a clip, for one that takes any; None: its default.

    Returns:
        The classifier, with logits that can be hashed, and what config.json says of it
        in "own_model": name (names folders; depends on the fingerprint), fingerprint
        (of all that its logits depend on), num_classes, num_samples, sample_rate_hz,
        class_names, and, where there is one, a note for the user.

    Raises:
        UsageError: It cannot be loaded, or its logits are not what they must be.
    """
    check_model(model)
    if model in MODEL_NAMES:
        for flag, value in (("label", label), ("clip_samples", num_samples)):
            if value is not None:
                raise UsageError(f"--{flag}: {model} takes none")
        return None
    classifier, facts, _ = _load(model, _stamps(model), label, num_samples)
    return classifier, facts


def probe_logits(
    model: str, *, label: str | None = None, num_samples: int | None = None
) -> dict[str, Any]:
    """Returns what `probes.measure` says of a classifier; arguments as of `load`."""
    return _load(model, _stamps(model), label, num_samples)[2]


def _is_entry_point(model: str) -> bool:
    return model in DEPLOYED or _ENTRY_POINT.fullmatch(model) is not None


def _stamps(model: str) -> tuple[tuple[int, int], ...] | None:
    """Returns what tells that a file has changed; None for an entry point."""
    if _is_entry_point(model):
        return None
    path = Path(model)
    if path.is_dir():
        paths = hugging_face.files_of(path)
    else:
        paths = [file for file in (path, facts_path(path)) if file.is_file()]
    return tuple((path.stat().st_size, path.stat().st_mtime_ns) for path in paths)


@contextlib.contextmanager
def under_attack(model: str, classifier: Classifier) -> Generator[None, None, None]:
    """Checks that there is a gradient; names in one line what users' code raises.

    Raises:
        UsageError: The logits have no gradient, or in place of JAX's error, which
            lists a page of JAX's own calls.
    """
    clip = jax.ShapeDtypeStruct((1, classifier.num_samples), jnp.float32)

    def total(x: jax.Array) -> jax.Array:
        return jnp.sum(classifier.logits(classifier.variables, x))

    with _users_code(model, "expected logits with a gradient, got"):
        jax.eval_shape(jax.grad(total), clip)
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        match = _RAISED.search(str(error))
        if match is None:
            raise
        lines = re.findall(r'File "([^"]+)", line (\d+)', str(error))
        raised = " ".join(match[1].split())[:300]
        raise UsageError(
            f"--model={model}: failed in an attack with {raised}{_last_line(lines)}"
        ) from error


@functools.lru_cache(maxsize=1)
def _load(
    model: str,
    stamps: tuple[tuple[int, int], ...] | None,
    label: str | None,
    num_samples: int | None,
) -> tuple[Classifier, dict[str, Any], dict[str, Any]]:
    """Loads an entry point, or with `stamps` a file or folder; checks its logits."""
    note = ""
    if stamps is None:
        given, digest = _call_entry_point(model, num_samples), None
    elif Path(model).is_dir():
        if num_samples is None:
            raise UsageError(f"--clip_samples: expected a number for {model}, got none")
        given, digest, note = hugging_face.read_checkpoint(
            Path(model), num_samples=num_samples
        )
    elif num_samples is not None:
        raise UsageError(f"--clip_samples: {model} takes clips of its length alone")
    else:
        given, digest, note = read_classifier(Path(model))
    given = _one_label(model, given, label)
    if digest is not None and label is not None:
        digest = hashlib.sha256(f"{digest} {label}".encode()).hexdigest()

    # Attacks compile for it, so it must be one object that can be hashed.
    def logits(variables: Any, x: jax.Array) -> jax.Array:
        return given.logits(variables, x)

    clips = checks.probe_clips(given.num_samples)
    with _users_code(model, f"no logits of clips [{len(clips)}, {clips.shape[1]}]:"):
        variables = jax.tree.map(jnp.asarray, given.variables)
        num_classes = checks.check_shape(
            jax.eval_shape(logits, variables, jnp.asarray(clips)), len(clips)
        )
        compiled = jax.jit(logits)
        checks.check_classifier(
            lambda clips: np.asarray(compiled(variables, clips)),
            clips,
            name="logits",
            num_classes=num_classes,
        )
        measured = probes.measure(lambda: np.asarray(compiled(variables, clips)))
    names = given.class_names
    if names is not None and len(names) != num_classes:
        raise UsageError(
            f"--model={model}: expected {num_classes} class_names, one for each logit, "
            f"got {len(names)}"
        )
    if digest is None:
        numbers = (given.num_samples, given.sample_rate_hz, num_classes)
        values = np.asarray(compiled(variables, clips))
        digest = _digest_of_entry_point((model, *numbers, names), variables, values)
    slug = re.sub(r"[^\w.-]+", "_", Path(model).name or Path(model).resolve().name)
    facts = {
        "name": f"{slug}-{digest[:16]}",
        "fingerprint": digest,
        "num_classes": num_classes,
        "num_samples": given.num_samples,
        "sample_rate_hz": given.sample_rate_hz,
        "class_names": names,
    } | ({"note": note} if note else {})
    return (
        dataclasses.replace(given, logits=logits, variables=variables),
        facts,
        measured,
    )


def _one_label(model: str, given: Classifier, label: str | None) -> Classifier:
    """Returns a multi-label network as a detector of one label; others as they are."""
    names = given.class_names or ()
    if given.threshold is None:
        if label is not None:
            raise UsageError(f"--label: {model} is no multi-label network")
        return given
    if label is None and len(names) == 1:
        label = names[0]
    if label not in names:
        raise UsageError(
            f"--label: expected one of {_some(names)} to be detected, got {label!r}"
        )
    with _users_code(model, f"no scores of {label}:"):
        return detector(given, label=label)


def _some(names: tuple[str, ...]) -> str:
    more = f", ... ({len(names)} in all)" if len(names) > 20 else ""
    return ", ".join(names[:20]) + more


def _function_of(model: str) -> Callable[..., Any]:
    """Returns the function of an entry point."""
    entry_point = model
    if model in DEPLOYED:
        package_folder(DEPLOYED[model].module)
        entry_point = DEPLOYED[model].entry_point
    module_name, _, function_name = entry_point.partition(":")
    with _users_code(model, f"importing {module_name} failed with"):
        module = importlib.import_module(module_name)
    function = getattr(module, function_name, None)
    if not callable(function):
        got = "none" if function is None else type(function).__name__
        raise UsageError(
            f"--model: expected a function {function_name} in {module_name}, got {got}"
        )
    return function


def _call_entry_point(model: str, num_samples: int | None) -> Classifier:
    function = _function_of(model)
    with _users_code(model, "the function failed with"):
        arguments = {}
        if num_samples is not None:
            if not _takes_any_length(function):
                raise UsageError(
                    f"--clip_samples: {model} takes clips of its length alone"
                )
            arguments = {"num_samples": num_samples}
        classifier = function(**arguments)
    if not isinstance(classifier, Classifier):
        raise UsageError(
            f"--model={model}: expected it to return a models.Classifier, got "
            f"{type(classifier).__name__}"
        )
    if classifier.sample_rate_hz is None:
        raise UsageError(f"--model={model}: expected a bridge with sample_rate_hz")
    return classifier


def _takes_any_length(function: Any) -> bool:
    """Returns whether an entry point makes classifiers of clips of any length."""
    return "num_samples" in inspect.signature(function).parameters


def _digest_of_entry_point(
    stated: tuple[Any, ...], variables: Any, values: np.ndarray
) -> str:
    digest = hashlib.sha256(json.dumps(stated).encode())
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables):
        array = np.asarray(leaf)
        key = f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}"
        digest.update(key.encode() + array.tobytes())
    # Weights may be elsewhere, and code counts too: so the logits of the probes enter,
    # coarsely, since this names folders on any machine; `probes` compares the bits.
    scale = max(float(np.max(np.abs(values))), 1e-30)
    digest.update(np.round(100.0 * values / scale).astype(np.int8).tobytes())
    return digest.hexdigest()


@contextlib.contextmanager
def _users_code(model: str, what: str) -> Generator[None, None, None]:
    """Says in one line what users' code raised, and in which of their lines."""
    try:
        yield
    except UsageError:
        raise
    except checks.ClassifierError as error:
        raise UsageError(f"--model={model}: {error}") from error
    # It may raise anything; a script that was not meant to be imported may exit.
    except (Exception, SystemExit) as error:
        frames = traceback.extract_tb(error.__traceback__)
        where = _last_line((frame.filename, frame.lineno) for frame in frames)
        message = f"--model={model}: {what} {checks.one_line(error)}{where}"
        raise UsageError(message) from error


def _last_line(lines: Iterable[tuple[str, Any]]) -> str:
    """Returns the last (file, line) of users' code in parentheses, or nothing."""
    of_users = [
        f" ({Path(file).name}, line {line})"
        for file, line in lines
        if not any(part in file for part in _NOT_OF_USERS)
    ]
    return of_users[-1] if of_users else ""
