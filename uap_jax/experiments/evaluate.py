"""Evaluates the perturbation of a finished run on any model and corpus.

    python -m uap_jax.experiments.evaluate --perturbation=runs/RUN --model=cnn_rand

With --perturbation alone the numbers are those of the run. The exit code is 3 where the
model's logits of some clips are not finite.
"""

from absl import flags

from uap_jax.console import NON_FINITE_EXIT, run_app
from uap_jax.errors import UsageError
from uap_jax.experiments import _flags
from uap_jax.files import expanded
from uap_jax.runs import config

PERTURBATION = _flags.define_perturbation()
SETTINGS = [name for name, setting in config.SETTINGS.items() if setting.re_evaluation]
_flags.define_settings(SETTINGS, re_evaluation=True)
STRICT = _flags.define_strict()
WORKDIR = flags.DEFINE_string(
    "workdir",
    None,
    "Where evaluation.json goes. Default: a folder in evaluations/ of the run's work "
    "directory, named by the model and its training.",
)
CACHE_DIR = _flags.define_cache_dir()


def main() -> int:
    if not PERTURBATION.value:
        raise UsageError(
            "--perturbation: expected the work directory of a finished run, got none"
        )
    # This loads Flax and Orbax, for which --help and mistyped flags need not wait.
    from uap_jax.evaluation import non_finite_logits
    from uap_jax.runs.evaluate import evaluate_stored

    evaluation = evaluate_stored(
        expanded(PERTURBATION.value),
        workdir=_flags.path_of(WORKDIR),
        cache_dir=_flags.cache_dir_of(CACHE_DIR),
        strict=STRICT.value,
        **_flags.settings(SETTINGS),
    )
    return NON_FINITE_EXIT if non_finite_logits(evaluation) else 0


if __name__ == "__main__":
    run_app(main)
