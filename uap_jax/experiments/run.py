"""Runs one attack and evaluates it, from the corpus to the report.

    python -m uap_jax.experiments.run --method=penalty --model=spchcmd

All files are in a work directory; the same command resumes a run that was stopped. The
exit code is 3 where all is done, but the model's logits of some clips are not finite.
"""

import sys
from pathlib import Path

from absl import flags

from uap_jax.console import NON_FINITE_EXIT, Console, run_app
from uap_jax.experiments import _flags
from uap_jax.runs.config import RunConfig

_flags.define_settings()
STRICT = _flags.define_strict()
WORKDIR = flags.DEFINE_string(
    "workdir", None, "Where results go. Default: a folder in runs/ named by settings."
)
CACHE_DIR = _flags.define_cache_dir()


def main() -> int:
    # Mistakes in settings need not wait for what Orbax and Matplotlib take to load.
    from uap_jax.runs.resolve import resolve

    config = resolve(RunConfig(**_flags.settings()))

    from uap_jax.evaluation import non_finite_logits
    from uap_jax.runs import evaluate, store
    from uap_jax.runs.run import run

    workdir = _flags.path_of(WORKDIR) or Path("runs") / config.run_name
    console = Console()
    (result,) = run(
        [config],
        [workdir],
        cache_dir=_flags.cache_dir_of(CACHE_DIR),
        consoles=[console],
        strict=STRICT.value,
    )
    if isinstance(result, Exception):
        raise result
    evaluate.say_result(result, workdir, console)
    fault = store.fault_of(result)
    if fault:
        print(f"error: {fault}", file=sys.stderr)
        return 1
    return NON_FINITE_EXIT if non_finite_logits(result) else 0


if __name__ == "__main__":
    run_app(main)
