"""Audio classifiers of Hugging Face's transformers."""

from uap_jax.bridges.hugging_face.checkpoints import (
    default_num_samples,
    files_of,
    is_checkpoint,
    read_checkpoint,
)
from uap_jax.bridges.hugging_face.families import FAMILIES
from uap_jax.bridges.hugging_face.models import check_front_end, from_transformers

__all__ = [
    "FAMILIES",
    "check_front_end",
    "default_num_samples",
    "files_of",
    "from_transformers",
    "is_checkpoint",
    "read_checkpoint",
]
