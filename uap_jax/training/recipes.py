"""How each model is trained."""

import dataclasses
from typing import Any

import jax
import optax

from uap_jax.attacks import checks
from uap_jax.training.augmentation import Augmentation


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Settings of a training.

    Attributes:
        num_clips_seen: Clips that the optimizer sees in all; the number of epochs
            follows from it, so that a small corpus gets more of them.
        max_epochs: Most epochs, for a very small corpus.
        batch_size: Clips per step.
        peak_learning_rate: Of Adam, reached after the warm-up, then a cosine to 0.
        warmup_share: Share of the steps that the warm-up takes.
        ramp_share: Share of the steps over which augmentation grows to full strength;
            on raw audio a network hardly begins to learn with all of it.
        weight_decay: Decoupled, on kernels only.
        label_smoothing: Share of each label spread over all classes. It keeps logits
            small, and the hinge of Eq. 10 too weak against the level term.
        augmentation: Random changes to the clips.
    """

    num_clips_seen: int = 120_000
    max_epochs: int = 300
    batch_size: int = 32
    peak_learning_rate: float = 1e-3
    warmup_share: float = 0.05
    ramp_share: float = 0.2
    weight_decay: float = 0.01
    label_smoothing: float = 0.0
    augmentation: Augmentation = Augmentation()

    def __post_init__(self) -> None:
        for name in ("num_clips_seen", "max_epochs", "batch_size"):
            checks.check_size(name, getattr(self, name))
        checks.check_positive("peak_learning_rate", self.peak_learning_rate)
        for name in ("warmup_share", "ramp_share", "weight_decay", "label_smoothing"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}: expected [0, 1), got {getattr(self, name)}")

    def num_epochs(self, num_train_clips: int) -> int:
        """Returns the number of passes over the training clips, at least 1."""
        epochs = round(self.num_clips_seen / num_train_clips)
        return min(max(1, epochs), self.max_epochs)

    def strength(self, share_done: float) -> float:
        """Returns the strength of the augmentation at a share of the training."""
        return min(1.0, share_done / self.ramp_share) if self.ramp_share else 1.0

    def optimizer(self, num_steps: int) -> optax.GradientTransformation:
        """Returns Adam with decoupled weight decay and its schedule."""
        num_warmup_steps = max(1, round(self.warmup_share * num_steps))
        schedule = optax.warmup_cosine_decay_schedule(
            init_value=0.0,
            peak_value=self.peak_learning_rate,
            warmup_steps=num_warmup_steps,
            decay_steps=max(num_warmup_steps + 1, num_steps),
        )
        return optax.adamw(schedule, weight_decay=self.weight_decay, mask=_kernels)


# Environmental sound: what matters may be anywhere in a clip.
_SCENES = Recipe(
    num_clips_seen=24_000,
    augmentation=Augmentation(max_shift_s=0.5, max_gain_db=6.0, background_share=0.3),
)


def _scenes(num_clips_seen: int, **changes: Any) -> Recipe:
    """Some ten minutes on two cores; more clips give better networks."""
    return dataclasses.replace(_SCENES, num_clips_seen=num_clips_seen, **changes)


# A layer of 136 million weights diverges at the learning rate of the others.
_ENVNET = _scenes(5_000, peak_learning_rate=2e-4)


# By model, then by corpus; "" is every other corpus.
RECIPES = {
    "spchcmd": {
        "": Recipe(),
        # Some six minutes on two cores, too short to memorise the clips, which are
        # rendered with noise and changes of speed, pitch and level.
        "synthetic_speech": Recipe(
            num_clips_seen=77_000,
            augmentation=Augmentation(
                max_speed_change=0.08,
                max_gain_db=3.0,
                background_share=0.2,
                max_background_volume=0.1,
                noise_share=0.3,
            ),
        ),
    },
    "cnn_rand": {
        "": _SCENES,
        # The clips are rendered with noise and changes of pitch and level.
        "synthetic_urban": dataclasses.replace(
            _SCENES,
            batch_size=16,
            augmentation=Augmentation(
                max_shift_s=0.5,
                max_speed_change=0.05,
                max_gain_db=3.0,
                background_share=0.1,
                noise_share=0.3,
            ),
        ),
    },
    "cnn_gamma": {"": _scenes(12_000)},
    "envnet_v2": {"": _ENVNET},
    "envnet_v2_deep": {"": _ENVNET},
    "sincnet": {"": _scenes(5_000)},
    "sincnet_vgg19": {"": _scenes(600, batch_size=8)},
}


def recipe_for(model: str, dataset: str) -> Recipe:
    """Returns how a model is trained on a corpus."""
    recipes = RECIPES[model]
    return recipes.get(dataset, recipes[""])


def _kernels(params: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)
