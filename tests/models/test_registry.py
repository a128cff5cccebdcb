"""The networks by name."""

import jax
import jax.numpy as jnp
import pytest

from uap_jax import models
from uap_jax.models import registry


def test_equal_arguments_give_one_object():
    first = models.create("spchcmd", num_classes=3)
    assert models.create("spchcmd", num_classes=3) is first
    assert models.create("spchcmd", num_classes=4) is not first


def test_paper_s_set_up_is_the_default():
    spec = models.create("spchcmd", num_classes=32)
    assert (spec.name, spec.num_classes) == ("spchcmd", 32)
    assert spec.num_samples == registry.default_num_samples("spchcmd") == 16_000
    assert spec.sample_rate_hz == registry.default_sample_rate_hz("spchcmd") == 16_000


@pytest.mark.parametrize("name", models.MODEL_NAMES)
def test_functions_have_the_shapes_they_promise(name):
    spec = models.create(name, num_classes=7)
    variables = jax.eval_shape(spec.init, jax.random.key(0))
    assert {"params"} <= set(variables) <= {"params", "batch_stats", "frozen"}
    x = jax.ShapeDtypeStruct((3, spec.num_samples), jnp.float32)
    logits = jax.eval_shape(spec.logits, variables, x)
    assert (logits.shape, logits.dtype) == ((3, 7), jnp.float32)
    logits, statistics = jax.eval_shape(
        spec.apply_train, variables, x, jax.random.key(1)
    )
    assert logits.shape == (3, 7)
    kept = {name: part for name, part in variables.items() if name == "batch_stats"}
    assert jax.tree.map(jnp.shape, statistics) == jax.tree.map(jnp.shape, kept)


def test_unknown_name_is_an_error():
    with pytest.raises(ValueError, match=r"name: expected one of .*spchcmd.*'vgg'"):
        models.create("vgg", num_classes=2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_classes": 1}, "num_classes: expected at least 2, got 1"),
        (
            {"num_classes": 2, "num_samples": 100},
            "num_samples: expected at least .* 100",
        ),
        ({"num_classes": 2, "num_samples": 0}, "num_samples: expected at least .* 0"),
    ],
)
def test_numbers_out_of_range_are_errors(settings, message):
    with pytest.raises(ValueError, match=message):
        models.create("spchcmd", **settings)
