"""Adds the perturbation of a finished run to any recording, or to all of a folder.

    python -m uap_jax.experiments.apply --perturbation=runs/RUN in.wav out.wav
    python -m uap_jax.experiments.apply --perturbation=runs/RUN IN_DIR OUT_DIR

Rates, levels, lengths and channels are those of the recordings; see `perturbing` for
the level of what is added. Results are WAV files; in a folder `a.flac` becomes
`a.flac.wav`, and the same command goes on where it was stopped.
"""

import sys
from pathlib import Path

from absl import flags

from uap_jax.errors import UsageError
from uap_jax.files import default_cache_dir
from uap_jax.runs import applying
from uap_jax.runs.console import run_app

PERTURBATION = flags.DEFINE_string(
    "perturbation", None, "The work directory of a finished run."
)
INPUT = flags.DEFINE_string(
    "input", None, "A recording or a folder of them; may stand without --input=."
)
OUTPUT = flags.DEFINE_string(
    "output", None, "The file or folder for the result; may stand without --output=."
)
PLACEMENT = flags.DEFINE_string(
    "placement",
    "tile",
    "Where the sound lies in a longer recording: tile (it is repeated), once (at the "
    "beginning), shift:SECONDS (repeated, and begins so much later, its end first). In "
    "a shorter one it is cut.",
)
FLOAT = flags.DEFINE_bool(
    "float", False, "Whether to write float32 samples, unclipped, in place of 16 bits."
)
OVERWRITE = flags.DEFINE_bool("overwrite", False, "Whether to replace files.")
PREDICT = flags.DEFINE_bool(
    "predict",
    None,
    "Whether to say what the run's model hears before and after, in the first part of "
    "a recording that is as long as its clips. Default: if the model is in the cache.",
)
CACHE_DIR = flags.DEFINE_string(
    "cache_dir", None, "Where models are kept. Default: as for run."
)


def main() -> int:
    return applying.apply(
        _path(INPUT, "a recording or a folder, as the first argument"),
        _path(OUTPUT, "a file or a folder for the result, as the second argument"),
        perturbation=_path(PERTURBATION, "the work directory of a finished run"),
        settings=applying.Settings(
            placement=PLACEMENT.value,
            as_float=FLOAT.value,
            overwrite=OVERWRITE.value,
            predict=PREDICT.value,
        ),
        cache_dir=Path(CACHE_DIR.value) if CACHE_DIR.value else default_cache_dir(),
    )


def _path(flag: flags.FlagHolder, expected: str) -> Path:
    if not flag.value:
        raise UsageError(f"--{flag.name}: expected {expected}, got none")
    return Path(flag.value)


def _name_paths(arguments: list[str]) -> list[str]:
    """Makes flags of the first two arguments that are none; `run_app` takes flags."""
    named = []
    names = [INPUT.name, OUTPUT.name]
    is_value = False
    for argument in arguments:
        if names and not is_value and not argument.startswith("-"):
            named.append(f"--{names.pop(0)}={argument}")
        else:
            named.append(argument)
        # "--flag value", of which "--flag" alone is whole if it is a yes or no.
        name = argument.lstrip("-")
        is_flag = argument.startswith("-") and name in flags.FLAGS
        is_value = is_flag and not flags.FLAGS[name].boolean
    return named


if __name__ == "__main__":
    sys.argv = [sys.argv[0], *_name_paths(sys.argv[1:])]
    run_app(main)
