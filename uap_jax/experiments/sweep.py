"""Runs the trials of a manifest that are not done, and writes its table.

    python -m uap_jax.experiments.sweep --manifest=smoke

The same command resumes where it was stopped, whatever stopped it.
"""

import functools
import shlex
import sys
from pathlib import Path

from absl import flags

from uap_jax.console import Console, run_app
from uap_jax.errors import UsageError
from uap_jax.experiments import _flags
from uap_jax.sweeps.manifest import SCALES

_MANIFESTS = (Path(__file__).parents[1] / "sweeps" / "manifests").glob("*.toml")
MANIFEST = flags.DEFINE_string(
    "manifest",
    None,
    "The experiment: a TOML file, or the name of one of the package: "
    f"{', '.join(sorted(path.stem for path in _MANIFESTS))}.",
)
SCALE = flags.DEFINE_enum(
    "scale",
    "paper",
    SCALES,
    "The whole experiment, or the same path in minutes: few clips, passes and targets.",
)
DATASET = flags.DEFINE_multi_string(
    "dataset",
    [],
    "The corpus, as for run; for an experiment with models of speech and of scenes it "
    "may be given twice. Default: the built-in one that fits the model.",
)
DATA_DIR = flags.DEFINE_multi_string(
    "data_dir", [], "The folder of recordings; one for each corpus that has one."
)
SPLIT = flags.DEFINE_enum(
    "split", None, ("official", "paper"), "Of the corpus, as for run."
)
GROUP_PATTERN = flags.DEFINE_string(
    "group_pattern", None, "Of a custom folder, as for run."
)
WORKDIR = flags.DEFINE_string(
    "workdir",
    None,
    "Folder for trials and tables; experiments share trials there. Default: a folder "
    "in runs/ named by scale and corpus.",
)
CACHE_DIR = _flags.define_cache_dir()
EXECUTOR = flags.DEFINE_enum(
    "executor",
    "local",
    ("local", "ray"),
    "What runs the trials: this process, or workers on a Ray cluster.",
)
AT_ONCE = flags.DEFINE_integer(
    "at_once",
    None,
    "With --executor=local: how many attacks in one program, of trials that differ in "
    "the target and in numbers of the attack. Default: as many as fit an accelerator's "
    "memory; 1 on a CPU, where batching does not help.",
    lower_bound=1,
)
RAY_ADDRESS = flags.DEFINE_string(
    "ray_address",
    None,
    "With --executor=ray: a running cluster. Default: one that is started here.",
)
NUM_WORKERS = flags.DEFINE_integer(
    "num_workers",
    None,
    "With --executor=ray: how many processes. Default: one for each GPU of the "
    "cluster, or, without GPUs, for two cores.",
    lower_bound=1,
)
MAX_RETRIES = flags.DEFINE_integer(
    "max_retries",
    3,
    "With --executor=ray: how often a trial is resumed whose worker has died.",
    lower_bound=0,
)
STRICT = _flags.define_strict()


def main() -> int:
    # After flags, whose mistakes and --help need not wait for JAX.
    import jax

    from uap_jax.sweeps import corpora, execute, manifest, ray_executor, sweep, trials

    if not MANIFEST.value:
        raise UsageError("--manifest: expected a file or a name, got none")
    executor = functools.partial(execute.run_local, at_once=AT_ONCE.value)
    if EXECUTOR.value == "ray":
        if AT_ONCE.value is not None:
            raise UsageError("--at_once: expected with --executor=local, got ray")
        ray_executor.check_installed()
        # GPUs are the workers'.
        jax.config.update("jax_platforms", "cpu")
        executor = functools.partial(
            ray_executor.run_ray,
            address=RAY_ADDRESS.value,
            num_workers=NUM_WORKERS.value,
            max_retries=MAX_RETRIES.value,
        )
    declared = manifest.load(manifest.locate(MANIFEST.value), scale=SCALE.value)
    given = corpora.pair(
        DATASET.value,
        DATA_DIR.value,
        split=SPLIT.value,
        group_pattern=GROUP_PATTERN.value,
    )
    names = [c.dataset or ("default" if c.data_dir else "built_in") for c in given]
    default = Path("runs") / "sweeps" / "-".join([SCALE.value, *names])
    context = corpora.Context(
        workdir=_flags.path_of(WORKDIR) or default,
        cache_dir=_flags.cache_dir_of(CACHE_DIR),
        strict=STRICT.value,
    )
    context.workdir.mkdir(parents=True, exist_ok=True)
    console = Console()
    failed = sweep.sweep(
        declared,
        trials.plan(declared, given, context, console),
        context,
        console,
        executor,
        command="python -m uap_jax.experiments.sweep " + shlex.join(sys.argv[1:]),
    )
    for line in failed:
        print(f"error: {line}", file=sys.stderr, flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    run_app(main)
