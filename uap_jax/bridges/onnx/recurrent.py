"""Recurrent layers of ONNX: one loop over time for each direction."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from uap_jax.bridges.onnx.files import Node

_DEFAULT_ACTIVATIONS = {
    "LSTM": ("Sigmoid", "Tanh", "Tanh"),
    "GRU": ("Sigmoid", "Tanh"),
    "RNN": ("Tanh",),
}
# State and what the input of a step contributes to its gates, to the new state.
StepFn = Callable[[Any, jax.Array], Any]


def _recurrent(kind: str) -> Callable[..., list[jax.Array]]:
    def apply(
        node: Node,
        x: jax.Array,
        input_kernels: jax.Array,
        hidden_kernels: jax.Array,
        biases: jax.Array | None = None,
        lengths: Any = None,
        *rest: Any,
    ) -> list[jax.Array]:
        _check(node, kind, lengths, rest)
        steps_first = node.attributes.get("layout", 0) == 0
        x = x if steps_first else x.swapaxes(0, 1)
        direction = node.attributes.get("direction", "forward")
        num_directions, _, num_hidden = hidden_kernels.shape
        shape = (num_directions, x.shape[1], num_hidden)
        num_states = 2 if kind == "LSTM" else 1
        given = [*rest[:num_states], *[None] * (num_states - len(rest))]
        states = [
            jnp.zeros(shape, x.dtype)
            if state is None
            else jnp.asarray(state if steps_first else state.swapaxes(0, 1))
            for state in given
        ]
        outputs, finals = [], []
        for index in range(num_directions):
            backwards = direction == "reverse" or index == 1
            bias = jnp.zeros(2 * hidden_kernels.shape[1], x.dtype)
            y, final = _run(
                kind,
                node,
                x,
                input_kernels[index],
                hidden_kernels[index],
                bias if biases is None else biases[index],
                tuple(state[index].astype(x.dtype) for state in states),
                backwards,
            )
            outputs.append(y)
            finals.append(final)
        y = jnp.stack(outputs, 1)
        last = [jnp.stack(parts) for parts in zip(*finals, strict=True)]
        if not steps_first:
            y = y.transpose(2, 0, 1, 3)
            last = [state.swapaxes(0, 1) for state in last]
        return [y, *last]

    return apply


def _check(node: Node, kind: str, lengths: Any, rest: tuple[Any, ...]) -> None:
    get = node.attributes.get
    activations = get("activations", ())
    default = _DEFAULT_ACTIVATIONS[kind]
    is_default = activations in ((), default, 2 * default)
    peepholes = rest[2] if len(rest) > 2 else None
    if not is_default or get("clip") or get("input_forget") or peepholes is not None:
        raise ValueError(
            "expected the default activations, no clip, input_forget or peepholes"
        )
    if lengths is not None:
        raise ValueError("expected no sequence_lens")


def _run(
    kind: str,
    node: Node,
    x: jax.Array,
    input_kernel: jax.Array,
    hidden_kernel: jax.Array,
    bias: jax.Array,
    state: tuple[jax.Array, ...],
    backwards: bool,
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    """`[T, B, I]` to `[T, B, H]` and the last state."""
    input_bias, hidden_bias = jnp.split(jnp.asarray(bias), 2)
    # Of all steps at once.
    gates = x @ input_kernel.T + input_bias
    if kind == "GRU":
        at_once = bool(node.attributes.get("linear_before_reset"))
        step = functools.partial(_gru_step, hidden_kernel, hidden_bias, at_once)
    else:
        gates = gates + hidden_bias
        function = _lstm_step if kind == "LSTM" else _rnn_step
        step = functools.partial(function, hidden_kernel)

    def body(state: Any, gates: jax.Array) -> tuple[Any, jax.Array]:
        state = step(state, gates)
        return state, state[0]

    final, y = lax.scan(body, state, gates, reverse=backwards)
    return y, final


def _lstm_step(hidden_kernel: jax.Array, state: Any, gates: jax.Array) -> Any:
    hidden, cell = state
    gates = gates + hidden @ hidden_kernel.T
    enter, leave, forget, new = jnp.split(gates, 4, -1)
    kept = jax.nn.sigmoid(forget) * cell
    cell = kept + jax.nn.sigmoid(enter) * jnp.tanh(new)
    return jax.nn.sigmoid(leave) * jnp.tanh(cell), cell


def _gru_step(
    hidden_kernel: jax.Array,
    hidden_bias: jax.Array,
    reset_after: bool,
    state: Any,
    gates: jax.Array,
) -> Any:
    (hidden,) = state
    size = hidden.shape[-1]
    both = gates[:, : 2 * size] + hidden @ hidden_kernel[: 2 * size].T
    update, reset = jnp.split(jax.nn.sigmoid(both + hidden_bias[: 2 * size]), 2, -1)
    kernel, bias = hidden_kernel[2 * size :], hidden_bias[2 * size :]
    if reset_after:
        recurrent = reset * (hidden @ kernel.T + bias)
    else:
        recurrent = (reset * hidden) @ kernel.T + bias
    new = jnp.tanh(gates[:, 2 * size :] + recurrent)
    return ((1.0 - update) * new + update * hidden,)


def _rnn_step(hidden_kernel: jax.Array, state: Any, gates: jax.Array) -> Any:
    return (jnp.tanh(gates + state[0] @ hidden_kernel.T),)


OPERATIONS = {kind: _recurrent(kind) for kind in _DEFAULT_ACTIVATIONS}
