"""Networks of JAX libraries need no bridge, only a function of their weights."""

import bridged_networks as networks
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bridged_networks import NUM_CLASSES, NUM_HIDDEN, STRIDE, WIDTH, assert_close
from flax import nnx

from uap_jax import attacks


def settings():
    return attacks.PenaltyConfig(
        batch_size=6,
        micro_batch_size=4,
        max_passes=1,
        learning_rate=0.05,
        penalty_coefficient=5.0,
    )


class NNXNetwork(nnx.Module):
    """The network of `bridged_networks`; its dropout counts what it draws."""

    def __init__(self, rngs):
        self.conv = nnx.Conv(
            1, NUM_HIDDEN, (WIDTH,), strides=STRIDE, padding="VALID", rngs=rngs
        )
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.out = nnx.Linear(NUM_HIDDEN, NUM_CLASSES, rngs=rngs)

    def __call__(self, x):
        hidden = jnp.tanh(self.conv(x[:, :, None]))
        return self.out(self.dropout(jnp.mean(hidden, axis=1)))


def test_flax_nnx():
    network = NNXNetwork(nnx.Rngs(0))
    numbers = networks.weights()
    network.conv.kernel[...] = jnp.asarray(numbers["kernel"].transpose(2, 1, 0))
    network.conv.bias[...] = jnp.asarray(numbers["bias"])
    network.out.kernel[...] = jnp.asarray(numbers["out_kernel"].T)
    network.out.bias[...] = jnp.asarray(numbers["out_bias"])
    x, labels = networks.clips()

    # All that an NNX network needs: evaluation mode, and its weights as variables.
    network.eval()
    graph, variables = nnx.split(network)

    def logits(variables, x):
        return nnx.merge(graph, variables)(x)

    result = attacks.penalty(
        logits,
        variables,
        x,
        labels,
        key=jax.random.key(0),
        target=1,
        config=settings(),
    )
    assert_close(
        result.perturbation.value,
        networks.expected_of_attack("penalty"),
        tolerance=1e-3,
    )


def test_equinox():
    eqx = pytest.importorskip("equinox")

    class EquinoxNetwork(eqx.Module):
        """The same, of one clip, as Equinox has it."""

        conv: eqx.nn.Conv1d
        dropout: eqx.nn.Dropout
        out: eqx.nn.Linear

        def __init__(self, key):
            self.conv = eqx.nn.Conv1d(1, NUM_HIDDEN, WIDTH, stride=STRIDE, key=key)
            self.dropout = eqx.nn.Dropout(0.5)
            self.out = eqx.nn.Linear(NUM_HIDDEN, NUM_CLASSES, key=key)

        def __call__(self, x):
            hidden = jnp.tanh(self.conv(x[None]))
            return self.out(self.dropout(jnp.mean(hidden, axis=1)))

    numbers = networks.weights()
    network = eqx.tree_at(
        lambda n: (n.conv.weight, n.conv.bias, n.out.weight, n.out.bias),
        EquinoxNetwork(jax.random.key(0)),
        (
            jnp.asarray(numbers["kernel"]),
            jnp.asarray(numbers["bias"][:, None]),
            jnp.asarray(numbers["out_kernel"]),
            jnp.asarray(numbers["out_bias"]),
        ),
    )
    x, labels = networks.clips()

    # All that an Equinox network needs: inference mode, its arrays as variables, vmap.
    variables, static = eqx.partition(eqx.nn.inference_mode(network), eqx.is_array)

    def logits(variables, x):
        return jax.vmap(eqx.combine(variables, static))(x)

    result = attacks.penalty(
        logits,
        variables,
        x,
        labels,
        key=jax.random.key(0),
        target=1,
        config=settings(),
    )
    assert_close(
        result.perturbation.value,
        networks.expected_of_attack("penalty"),
        tolerance=1e-3,
    )
    assert np.any(np.asarray(result.perturbation.value) != 0)
