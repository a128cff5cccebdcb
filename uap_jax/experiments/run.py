"""Crafts a universal perturbation and judges it, from the corpus to the report.

    python -m uap_jax.experiments.run --method=penalty --model=spchcmd

Everything is kept in a work directory; the same command goes on where it was stopped.
"""

from pathlib import Path

from absl import flags

from uap_jax.audio import SCALINGS
from uap_jax.models import MODEL_NAMES
from uap_jax.runs.console import run_app
from uap_jax.runs.custom_models import check_model
from uap_jax.runs.model_files import FACTS_EXAMPLE, FILE_SUFFIXES

# As `attacks.methods.METHODS`, which takes seconds to import.
METHODS = ("penalty", "greedy", "decoupled")

METHOD = flags.DEFINE_enum("method", "penalty", METHODS, "The attack.")
MODEL = flags.DEFINE_string(
    "model",
    "spchcmd",
    f"The classifier to fool: {', '.join(MODEL_NAMES)}, which is trained first; or one "
    "of yours, trained already: package.module:function, a function without arguments "
    "that returns a models.Classifier, as bridges do; or a file "
    f"({', '.join(FILE_SUFFIXES)}; ONNX, TorchScript or torch.export), with what it is "
    f"made for in a file of its name and .json beside it, such as {FACTS_EXAMPLE}. "
    'With the input range "waveform" it gets 2 x - 1 of clips x in [0, 1], that is, '
    "with --scaling=fixed, recordings as they are.",
)
TARGET = flags.DEFINE_string(
    "target", None, "The class to say; without it any wrong class will do."
)
DATASET = flags.DEFINE_string(
    "dataset",
    None,
    "The corpus: synthetic_speech or synthetic_urban (built in); speech_commands "
    "(every folder of words is a class), speech_commands_paper32 or "
    "speech_commands_kaggle12 (the classes of the paper or of the challenge, others as "
    "_unknown_); tfsr (the challenge's folder, with submissions for test/audio); "
    "urbansound8k, esc10, esc50; folder (one of yours, with a folder for "
    "each class or a table of path, label, group). Default: what fits the model, the "
    "built-in one or, with --data_dir, speech_commands or urbansound8k.",
)
DATA_DIR = flags.DEFINE_string(
    "data_dir", None, "The folder of recordings, or with --dataset=folder a CSV table."
)
GROUP_PATTERN = flags.DEFINE_string(
    "group_pattern",
    None,
    "With --dataset=folder: a regular expression with one (group) that finds the "
    "speaker or source in a recording's path. Nobody is in two splits.",
)
SPLIT = flags.DEFINE_enum(
    "split",
    None,
    ("official", "paper"),
    "The corpus's own split, or, for urbansound8k, the paper's random one, in which "
    "slices of one recording are on both sides.",
)
SCALING = flags.DEFINE_enum(
    "scaling",
    None,
    SCALINGS,
    "How waveforms are scaled to [0, 1]. Default: fixed, or what the preset says.",
)
NUM_ATTACK_CLIPS = flags.DEFINE_integer(
    "num_attack_clips",
    None,
    "Clips of the training split that the attack uses, at most. Default: 1000, or what "
    "the preset says.",
)
NUM_TEST_CLIPS = flags.DEFINE_integer(
    "num_test_clips",
    None,
    "Clips of the test split that the attack is judged on, at most, of each class its "
    "share. Default: all.",
)
ATTACK_CLASS = flags.DEFINE_string(
    "attack_class",
    None,
    "The class the attack's clips are of; with --num_attack_clips=1 the attack has a "
    "single recording. Without it clips of all classes.",
)
ASR_LEVELS = flags.DEFINE_list(
    "asr_levels",
    [],
    "With --method=decoupled: success rates to find the quietest perturbation of, for "
    "example 0.5,0.7,0.9; the same as --set attack.asr_levels=0.5,0.7,0.9.",
)
PRESET = flags.DEFINE_enum(
    "preset",
    "default",
    ("default", "paper"),
    "Where settings begin; paper: minmax scaling, 3000 clips, l2 radius 6.",
)
SEED = flags.DEFINE_integer(
    "seed", 0, "Of every random choice.", lower_bound=0, upper_bound=2**31 - 1
)
SET = flags.DEFINE_multi_string(
    "set",
    [],
    "key=value, any setting of the attack, training or augmentation, for example "
    "attack.learning_rate=0.01 or training.num_clips_seen=50000. May be repeated.",
)
STRICT = flags.DEFINE_bool("strict", False, "Whether one bad recording is an error.")
WORKDIR = flags.DEFINE_string(
    "workdir", None, "Where results go. Default: a folder in runs/ named by settings."
)
CACHE_DIR = flags.DEFINE_string(
    "cache_dir",
    None,
    "Where clips, trained models and compiled programs are kept. Default: "
    "$UAP_JAX_CACHE, else uap_jax in $XDG_CACHE_HOME or ~/.cache.",
)


def main() -> int:
    check_model(MODEL.value)
    # JAX and Flax take seconds to load; --help and mistyped flags need not wait.
    from uap_jax.runs import pipeline

    return pipeline.run(
        pipeline.Request(
            method=METHOD.value,
            model=MODEL.value,
            dataset=DATASET.value,
            data_dir=DATA_DIR.value,
            split=SPLIT.value,
            group_pattern=GROUP_PATTERN.value,
            scaling=SCALING.value,
            target=TARGET.value,
            num_attack_clips=NUM_ATTACK_CLIPS.value,
            num_test_clips=NUM_TEST_CLIPS.value,
            attack_class=ATTACK_CLASS.value,
            seed=SEED.value,
            preset=PRESET.value,
            overrides=(*_asr_levels(METHOD.value, ASR_LEVELS.value), *SET.value),
        ),
        workdir=Path(WORKDIR.value) if WORKDIR.value else None,
        cache_dir=Path(CACHE_DIR.value) if CACHE_DIR.value else None,
        strict=STRICT.value,
    )


def _asr_levels(method: str, levels: list[str]) -> list[str]:
    from uap_jax.errors import UsageError

    if levels and method != "decoupled":
        raise UsageError(
            f"--asr_levels: {method} finds one success rate, use decoupled"
        )
    return [f"attack.asr_levels={','.join(levels)}"] if levels else []


if __name__ == "__main__":
    run_app(main)
