"""Trained classifiers of one's own, where `--model` names none of the registry.

It names a file, see `own_files`, or an entry point, `package.module:function`: a
function without arguments that returns a `models.OwnModel` or a `bridges.Bridge`.
"""

import contextlib
import dataclasses
import functools
import hashlib
import importlib
import json
import re
import traceback
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from uap_jax.errors import UsageError
from uap_jax.models import MODEL_NAMES, ModelSpec, OwnModel
from uap_jax.runs.own_files import FILE_SUFFIXES, read_model, stated_path

if TYPE_CHECKING:
    from uap_jax.data.dataset import Dataset

# Parts of the names of files whose lines tell the maker of a model nothing.
_NOT_OF_USERS = ("importlib", "site-packages", str(Path(__file__).parents[1]))
# What a callback of JAX raised: the last lines of a traceback, not indented.
_RAISED = re.compile(r"Traceback \(most recent call last\):\n(?: .*\n)+(\S[\s\S]*)")
_ENTRY_POINT = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")


@dataclasses.dataclass(frozen=True)
class Facts:
    """What is known of a model of one's own; goes into config.json.

    Attributes:
        name: Names folders; depends on the fingerprint.
        fingerprint: A hash of all that its logits depend on.
        num_classes: C.
        num_samples: N.
        sample_rate_hz: Samples per second.
        class_names: In the order of the logits, or None: those of the corpus.
    """

    name: str
    fingerprint: str
    num_classes: int
    num_samples: int
    sample_rate_hz: int
    class_names: tuple[str, ...] | None


class Loaded(NamedTuple):
    """A model of one's own, ready to be attacked."""

    spec: ModelSpec
    variables: Any
    facts: Facts


def check_model(model: str) -> None:
    """Checks what a flag names, as far as it goes without loading anything.

    Raises:
        UsageError: It is none of the three kinds, or there is no such file.
    """
    if model in MODEL_NAMES or _ENTRY_POINT.fullmatch(model):
        return
    if Path(model).suffix not in FILE_SUFFIXES:
        raise UsageError(
            f"--model: expected one of {', '.join(MODEL_NAMES)}, "
            f"package.module:function, or a file {', '.join(FILE_SUFFIXES)}, "
            f"got {model!r}"
        )
    if not Path(model).is_file():
        raise UsageError(f"--model: expected a file, got {model}, which is none")


def load(model: str) -> Loaded | None:
    """Returns a model of one's own, or None for a name of the registry.

    It is loaded once in a process, a file again when it has changed.

    Raises:
        UsageError: It cannot be loaded, or is not what it must be.
    """
    check_model(model)
    if model in MODEL_NAMES:
        return None
    if _ENTRY_POINT.fullmatch(model):
        return _load_entry_point(model)
    files = [Path(model), stated_path(Path(model))]
    found = [file.stat() for file in files if file.is_file()]
    return _load_file(model, tuple((each.st_size, each.st_mtime_ns) for each in found))


def with_classes(dataset: "Dataset", facts: Facts | None) -> "Dataset":
    """Returns a corpus with the model's classes, matched by their names.

    Raises:
        UsageError: The corpus has classes that the model does not know, or, where the
            model names none, another number of them.
    """
    if facts is None:
        return dataset
    import numpy as np

    found, names = dataset.class_names, facts.class_names
    if names is None:
        if len(found) == facts.num_classes:
            return dataset
        raise UsageError(
            f"--model: expected a corpus of {facts.num_classes} classes, got "
            f"{dataset.name} of {len(found)}: {', '.join(found)}"
        )
    unknown = [name for name in found if name not in names]
    if unknown:
        raise UsageError(
            f"--model: expected a corpus of classes among {', '.join(names)}, got "
            f"{dataset.name} with {', '.join(unknown)}"
        )
    places = np.array([names.index(name) for name in found], np.int32)
    return dataclasses.replace(
        dataset, labels=places[dataset.labels], class_names=names
    )


def check_gradient(spec: ModelSpec, variables: Any) -> None:
    """Checks that a model can be attacked, not only evaluated.

    Raises:
        UsageError: Its logits have no gradient.
    """
    import jax
    import jax.numpy as jnp

    clip = jax.ShapeDtypeStruct((1, spec.num_samples), jnp.float32)
    try:
        jax.eval_shape(jax.grad(lambda x: jnp.sum(spec.logits(variables, x))), clip)
    # Whatever the code of others raises.
    except Exception as error:
        raise _fault(spec.name, "expected logits with a gradient, got", error) from None


@contextlib.contextmanager
def naming_faults(model: str) -> Generator[None, None, None]:
    """Says in one line what a network outside of JAX raised while it was attacked.

    Raises:
        UsageError: In place of the error of JAX, which is a page of JAX's own calls.
    """
    import jax

    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        found = _RAISED.search(str(error))
        if found is None:
            raise
        places = [
            f" ({Path(file).name}, line {line})"
            for file, line in re.findall(r'File "([^"]+)", line (\d+)', str(error))
            if not any(part in file for part in _NOT_OF_USERS)
        ]
        raised = " ".join(found[1].split())[:300]
        raise UsageError(
            f"--model={model}: failed in an attack with {raised}"
            f"{places[-1] if places else ''}"
        ) from error


@functools.lru_cache(maxsize=1)
def _load_entry_point(model: str) -> Loaded:
    from uap_jax.bridges import Bridge

    module_name, _, function_name = model.partition(":")
    try:
        module = importlib.import_module(module_name)
    # A script that was not meant to be imported may leave.
    except (Exception, SystemExit) as error:
        raise _fault(model, f"importing {module_name} failed with", error) from None
    function = getattr(module, function_name, None)
    if not callable(function):
        got = "none" if function is None else type(function).__name__
        raise UsageError(
            f"--model: expected a function {function_name} in {module_name}, got {got}"
        )
    try:
        found = function()
    except (Exception, SystemExit) as error:
        raise _fault(model, "the function failed with", error) from None
    if isinstance(found, Bridge):
        if found.sample_rate_hz is None:
            raise UsageError(f"--model={model}: expected a bridge with sample_rate_hz")
        found = OwnModel(
            found.logits,
            found.variables,
            num_samples=found.num_samples,
            sample_rate_hz=found.sample_rate_hz,
        )
    if not isinstance(found, OwnModel):
        raise UsageError(
            f"--model={model}: expected it to return a models.OwnModel or a "
            f"bridges.Bridge, got {type(found).__name__}"
        )
    return _checked(model, found, None)


@functools.lru_cache(maxsize=1)
def _load_file(model: str, _stamps: tuple[Any, ...]) -> Loaded:
    return _checked(model, *read_model(Path(model)))


def _checked(model: str, own: OwnModel, digest: str | None) -> Loaded:
    """Sees that a model gives logits; `digest` is of its file, if it is one."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from uap_jax.bridges import checks

    # Attacks compile for it, so it must be one object that can be hashed.
    def logits(variables: Any, x: jax.Array) -> jax.Array:
        return own.logits(variables, x)

    probes = checks.probe_clips(own.num_samples)
    try:
        variables = jax.tree.map(jnp.asarray, own.variables)
        shape = jax.eval_shape(logits, variables, jnp.asarray(probes))
        if shape.ndim != 2 or shape.dtype != jnp.float32 or shape.shape[1] < 2:
            raise checks.ClassifierError(
                f"expected logits float32 [{len(probes)}, C], C at least 2, for "
                f"{len(probes)} clips, got {shape.dtype} {list(shape.shape)}"
            )
        compiled = jax.jit(logits)
        checks.check_classifier(
            lambda clips: np.asarray(compiled(variables, clips)),
            probes,
            name="logits",
            num_classes=shape.shape[1],
        )
    except checks.ClassifierError as error:
        raise UsageError(f"--model={model}: {error}") from None
    # Whatever the code of others raises.
    except Exception as error:
        what = f"no logits of clips [{len(probes)}, {own.num_samples}]:"
        raise _fault(model, what, error) from None
    num_classes = shape.shape[1]
    names = None if own.class_names is None else tuple(own.class_names)
    if names is not None and len(names) != num_classes:
        raise UsageError(
            f"--model={model}: expected {num_classes} class_names, one for each logit, "
            f"got {len(names)}"
        )
    if digest is None:
        numbers = (own.num_samples, own.sample_rate_hz, num_classes)
        found = np.asarray(compiled(variables, probes))
        digest = _digest_of_entry_point((model, *numbers, names), variables, found)
    slug = re.sub(r"[^\w.-]+", "_", Path(model).name)
    facts = Facts(
        name=f"{slug}-{digest[:16]}",
        fingerprint=digest,
        num_classes=num_classes,
        num_samples=own.num_samples,
        sample_rate_hz=own.sample_rate_hz,
        class_names=names,
    )
    spec = ModelSpec(
        name=model,
        num_classes=num_classes,
        num_samples=own.num_samples,
        sample_rate_hz=own.sample_rate_hz,
        init=lambda key: variables,
        logits=logits,
        apply_train=lambda variables, x, key: (logits(variables, x), {}),
    )
    return Loaded(spec, variables, facts)


def _digest_of_entry_point(stated: tuple[Any, ...], variables: Any, logits: Any) -> str:
    import jax
    import numpy as np

    digest = hashlib.sha256(json.dumps(stated).encode())
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables):
        array = np.asarray(leaf)
        key = f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}"
        digest.update(key.encode() + array.tobytes())
    # Weights may be elsewhere, and there is code: what the model says of the probes.
    # Coarsely, since the last bits may change with the number of threads.
    scale = max(float(np.max(np.abs(logits))), 1e-30)
    digest.update(np.round(100.0 * logits / scale).astype(np.int8).tobytes())
    return digest.hexdigest()


def _fault(model: str, what: str, error: BaseException) -> UsageError:
    """Says in one line what the code of others raised, and where."""
    from uap_jax.bridges.checks import one_line

    frames = traceback.extract_tb(error.__traceback__)
    places = [
        f" ({Path(frame.filename).name}, line {frame.lineno})"
        for frame in frames
        if not any(part in frame.filename for part in _NOT_OF_USERS)
    ]
    where = places[-1] if places else ""
    return UsageError(f"--model={model}: {what} {one_line(error)}{where}")
