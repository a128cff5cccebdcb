"""Whether a run's classifier is still the one that was attacked."""

import hashlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from uap_jax import files
from uap_jax.bridges import custom_models, probes
from uap_jax.errors import UsageError
from uap_jax.models import Classifier
from uap_jax.runs.config import RunConfig
from uap_jax.runs.store import PROBLEM, StoredRun


def identity(config: RunConfig, classifier: Classifier) -> dict[str, Any]:
    """Returns what problem.json says of a classifier, for `difference`.

    A network of the package has all its weights in `variables`; of a custom one, whose
    weights may be anywhere, it is the logits of probe clips.
    """
    if config.own_model is not None:
        return {"logits": custom_models.probe_logits(**config.model_arguments)}
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(classifier.variables):
        digest.update(np.asarray(leaf).tobytes())
    return {"weights": digest.hexdigest()}


def difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Returns how two of `identity` differ; empty where they do not."""
    if "logits" in before and "logits" in now:
        return probes.difference(before["logits"], now["logits"])
    return "" if before == now else "its weights are others"


def difference_from(run: StoredRun, config: RunConfig, classifier: Classifier) -> str:
    """Returns how a classifier differs from the one that a run attacked.

    Empty where it does not, or where an earlier release attacked it.

    Raises:
        UsageError: The run's problem.json is damaged.
    """
    path = run.workdir / PROBLEM
    before = (files.read_json(path) or {}).get("classifier")
    try:
        return difference(before, identity(config, classifier)) if before else ""
    except (KeyError, TypeError, ValueError, AttributeError):
        raise UsageError(f"{path}: damaged; delete the run") from None
