"""A universal attack of one's own in one file: sign steps on the hinge, l_inf ball.

    v <- P_{inf,xi}(v - a sign(grad_v sum_i G(clip(x_i + v)))),   G of Eq. 10 and 11

The loop gives it passes, counting, resume, devices, side by side, launcher and report:
`--method=sign_steps:SIGN_STEPS` where this file can be imported.
"""

import dataclasses

import jax
import jax.numpy as jnp

from uap_jax.attacks import Method, PassConfig
from uap_jax.attacks.batches import batch_loss, batch_of, classes_of, gradient_fault
from uap_jax.attacks.equations import hinge, perturb, project_linf
from uap_jax.attacks.types import Number, Step


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SignConfig(PassConfig):
    radius: Number = 0.1
    step_size: Number = 0.01

    @property
    def method(self):
        return SIGN_STEPS


def init(classify, problem):
    return jnp.zeros(problem.x.shape[1], jnp.float32)


def step(classify, problem, v, at):
    def losses(v, clips):
        return hinge(
            classify(perturb(problem.x[clips], v, space="signal")),
            classes_of(problem, problem.labels, clips),
            confidence=10.0,
            targeted=problem.targeted,
        )

    config = problem.config
    total, gradient, left_out = batch_loss(losses, v, *batch_of(problem, at))
    v = project_linf(v - config.step_size * jnp.sign(gradient), radius=config.radius)
    fault = gradient_fault(total, gradient)
    return Step(v, config.batch_size, fault=fault, left_out=left_out)


SIGN_STEPS = Method(
    name="sign_steps",
    config_type=SignConfig,
    init=init,
    step=step,
    value=lambda v: v,
    space="signal",
)
