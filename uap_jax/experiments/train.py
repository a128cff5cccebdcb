"""Trains the model of a run, or finds it in the cache, without an attack.

python -m uap_jax.experiments.train --model=spchcmd
"""

from uap_jax.console import Console, run_app
from uap_jax.experiments import _flags
from uap_jax.runs.config import RunConfig

# Those that a training depends on.
SETTINGS = (
    *("model", "dataset", "data_dir", "split", "group_pattern", "scaling"),
    *("seed", "preset", "retrain", "overrides"),
)
_flags.define_settings(SETTINGS)
STRICT = _flags.define_strict()
CACHE_DIR = _flags.define_cache_dir()


def main() -> int:
    # Mistakes in settings need not wait for what Flax and Orbax take to load.
    from uap_jax.runs.resolve import resolve

    config = resolve(RunConfig(**_flags.settings(SETTINGS)))

    from uap_jax import environment
    from uap_jax.runs import corpus, victim

    cache_dir, console = _flags.cache_dir_of(CACHE_DIR), Console()
    environment.cache_compilations(cache_dir / "compiled")
    clips = corpus.load_corpus(
        config, cache_dir=cache_dir, strict=STRICT.value, console=console
    )
    trained = victim.prepare(config, clips, cache_dir=cache_dir, console=console)
    if "training" not in trained.facts:
        console.say(f"{victim.model_folder(config, clips, cache_dir)}")
    console.say(f"validation accuracy {trained.facts['validation_accuracy']:.3f}")
    return 0


if __name__ == "__main__":
    run_app(main)
