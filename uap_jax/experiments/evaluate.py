"""Judges the perturbation of a finished run on any model and corpus.

    python -m uap_jax.experiments.evaluate --perturbation=runs/RUN --model=cnn_rand

With --perturbation alone it finds what the run found.
"""

from pathlib import Path

from absl import flags

from uap_jax.data.corpora import CORPUS_NAMES
from uap_jax.errors import UsageError
from uap_jax.files import default_cache_dir
from uap_jax.runs.console import run_app
from uap_jax.runs.custom_models import check_model

PERTURBATION = flags.DEFINE_string(
    "perturbation", None, "The work directory of a finished run."
)
MODEL = flags.DEFINE_string(
    "model", None, "The classifier to fool, as for run. Default: the run's."
)
DATASET = flags.DEFINE_enum(
    "dataset", None, CORPUS_NAMES, "The corpus, as for run. Default: the run's."
)
DATA_DIR = flags.DEFINE_string(
    "data_dir", None, "The folder of recordings. Default: the run's."
)
SPLIT = flags.DEFINE_enum(
    "split", None, ("official", "paper"), "As for run. Default: the run's."
)
GROUP_PATTERN = flags.DEFINE_string(
    "group_pattern", None, "As for run. Default: the run's."
)
SEED = flags.DEFINE_integer(
    "seed",
    None,
    "Of the model's training, of noise and of shifts. Default: the run's.",
    lower_bound=0,
    upper_bound=2**31 - 1,
)
STRICT = flags.DEFINE_bool("strict", False, "Whether one bad recording is an error.")
WORKDIR = flags.DEFINE_string(
    "workdir",
    None,
    "Where evaluation.json goes. Default: a folder in evaluations/ of the run's work "
    "directory, named by the model and its training.",
)
CACHE_DIR = flags.DEFINE_string(
    "cache_dir",
    None,
    "Where clips, trained models and compiled programs are kept. Default: as for run.",
)


def main() -> int:
    if not PERTURBATION.value:
        raise UsageError(
            "--perturbation: expected the work directory of a finished run, got none"
        )
    if MODEL.value is not None:
        check_model(MODEL.value)
    # JAX and Flax take seconds to load; --help and mistyped flags need not wait.
    from uap_jax.runs import evaluating

    return evaluating.evaluate(
        Path(PERTURBATION.value),
        model=MODEL.value,
        dataset=DATASET.value,
        data_dir=DATA_DIR.value,
        split=SPLIT.value,
        group_pattern=GROUP_PATTERN.value,
        seed=SEED.value,
        workdir=Path(WORKDIR.value) if WORKDIR.value else None,
        cache_dir=Path(CACHE_DIR.value) if CACHE_DIR.value else default_cache_dir(),
        strict=STRICT.value,
    )


if __name__ == "__main__":
    run_app(main)
