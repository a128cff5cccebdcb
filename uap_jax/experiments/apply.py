"""Adds the perturbation of a finished run to any recording, or to all of a folder.

    python -m uap_jax.experiments.apply --perturbation=runs/RUN in.wav out.wav
    python -m uap_jax.experiments.apply --perturbation=runs/RUN IN_DIR OUT_DIR
    python -m uap_jax.experiments.apply --perturbation=runs/RUN in.wav out.wav
        --moment=random --rooms=simulated

Rates, levels, lengths and channels are those of the recordings; the level of the sound
is explained in `runs/recordings/perturbing.py`. Results are WAV files; in a folder
`a.flac` becomes `a.flac.wav`, and the same command resumes what was stopped. The exit
code is 1 where recordings were skipped, and 3 where the model's logits of some are not
finite.
"""

import sys

from absl import flags

from uap_jax.console import NON_FINITE_EXIT, run_app
from uap_jax.errors import UsageError
from uap_jax.experiments import _flags
from uap_jax.files import expanded

PERTURBATION = _flags.define_perturbation()
INPUT = flags.DEFINE_string(
    "input", None, "A recording or a folder of them; --input= may be left out."
)
OUTPUT = flags.DEFINE_string(
    "output", None, "The file or folder for the result; --output= may be left out."
)
PLACEMENT = flags.DEFINE_string(
    "placement",
    None,
    "Where the sound lies in a longer recording: tile (it is repeated without a gap), "
    "once (at the beginning), shift:SECONDS (repeated, circularly shifted by so much). "
    "It is cut to a shorter one. Default: tile.",
)
MOMENT = flags.DEFINE_string(
    "moment",
    None,
    "Seconds that the repeated sound began before a recording, or random: drawn for "
    "each recording.",
)
ROOMS = flags.DEFINE_string(
    "rooms",
    None,
    "The room in which the sound arrives: simulated (one of 50 that no attack uses), "
    "a measured response, or a folder of them; drawn for each recording.",
)
CHANNEL = flags.DEFINE_string(
    "channel",
    None,
    "What the sound passes before it is added, a list as of run --channel, such as "
    "moment,rooms,band=telephone,gain=-6:0,ambient=-40.",
)
SEED = flags.DEFINE_integer(
    "seed", 0, "Of random moments, rooms, gains and noise.", lower_bound=0
)
FLOAT = flags.DEFINE_bool(
    "float", False, "Whether to write float32 samples, unclipped, instead of 16 bits."
)
OVERWRITE = flags.DEFINE_bool("overwrite", False, "Whether to replace files.")
PREDICT = flags.DEFINE_bool(
    "predict",
    None,
    "Whether to show the predictions of the run's model before and after, of a long "
    "recording window by window, as long as its clips. Default: if the model is "
    "cached.",
)
CACHE_DIR = _flags.define_cache_dir()


def main(*arguments: str) -> int:
    # A flag leaves its argument to the next.
    given = list(arguments)
    source = INPUT.value or (given.pop(0) if given else None)
    target = OUTPUT.value or (given.pop(0) if given else None)
    if given:
        raise UsageError(f"unexpected argument {given[0]!r}")
    for flag, value, expected in (
        ("input", source, "a recording or a folder, as the first argument"),
        ("output", target, "a file or a folder for the result, as the second argument"),
        ("perturbation", PERTURBATION.value, "the work directory of a finished run"),
    ):
        if not value:
            raise UsageError(f"--{flag}: expected {expected}, got none")
    # This loads JAX, for which --help and mistyped flags need not wait.
    from uap_jax.runs.recordings.apply import apply

    total, skipped, num_non_finite = apply(
        expanded(str(source)),
        expanded(str(target)),
        perturbation=expanded(str(PERTURBATION.value)),
        cache_dir=_flags.cache_dir_of(CACHE_DIR),
        arrives={
            "placement": PLACEMENT.value,
            "moment": MOMENT.value,
            "channel": CHANNEL.value,
            "rooms": ROOMS.value,
            "seed": SEED.value,
        },
        as_float=FLOAT.value,
        overwrite=OVERWRITE.value,
        predict=PREDICT.value,
    )
    if skipped:
        line = f"{len(skipped)} of {total} recordings were skipped"
        print(f"error: {line}", file=sys.stderr)
        return 1
    return NON_FINITE_EXIT if num_non_finite else 0


if __name__ == "__main__":
    run_app(main, max_arguments=2)
