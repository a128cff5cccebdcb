"""The paper's equations in float64 NumPy, clip by clip, as an oracle for the tests.

Written from the paper, not from the package: plain loops, no JAX.
"""

import numpy as np

EPSILON = 1e-7


def rms(v):
    """P(v), Eq. 6."""
    v = np.asarray(v, np.float64)
    return np.sqrt(np.sum(v**2) / v.size)


def spl_db(v):
    """SPL(v), Eq. 5; minus infinity for silence."""
    with np.errstate(divide="ignore"):
        return 20 * np.log10(rms(v))


def spl_db_gradient(v):
    """dSPL/dv = (20 / ln 10) v / ||v||^2; 0 for silence, where there is none."""
    v = np.asarray(v, np.float64)
    square = np.sum(v**2)
    return 20 / np.log(10) * v / square if square else np.zeros_like(v)


def to_tanh_space(x, epsilon=EPSILON):
    """x', Eq. 7."""
    return np.arctanh((2 * np.asarray(x, np.float64) - 1) * (1 - epsilon))


def from_tanh_space(b):
    """w, Eq. 7."""
    return 0.5 * (np.tanh(np.asarray(b, np.float64)) + 1)


def signal_of_tanh(v_tanh, epsilon=EPSILON):
    """v, Eq. 8."""
    return (np.tanh(np.asarray(v_tanh, np.float64)) + 1 - epsilon) / (2 - 2 * epsilon)


def perturbation_between(w, x_tanh):
    """v', Eq. 9."""
    w = np.asarray(w, np.float64)
    return 0.5 * np.log(w / (1 - w)) - np.asarray(x_tanh, np.float64)


def hinge_targeted(logits, target, confidence):
    """G of Eq. 10 for one clip, and its gradient with respect to the logits."""
    others = [j for j in range(len(logits)) if j != target]
    best = max(others, key=lambda j: logits[j])
    return _hinge(logits, best, target, confidence)


def hinge_untargeted(logits, label, confidence):
    """G of Eq. 11 for one clip, and its gradient with respect to the logits."""
    others = [j for j in range(len(logits)) if j != label]
    best = max(others, key=lambda j: logits[j])
    return _hinge(logits, label, best, confidence)


def _hinge(logits, plus, minus, confidence):
    gradient = np.zeros(len(logits))
    margin = float(logits[plus]) - float(logits[minus])
    if margin <= -confidence:
        return -confidence, gradient
    gradient[plus], gradient[minus] = 1.0, -1.0
    return margin, gradient


def network_logits(weights, w):
    """Logits of one clip by the network of `toy_networks.mlp_logits`."""
    hidden = np.tanh(w @ weights["kernel"] + weights["bias"])
    return hidden @ weights["out_kernel"] + weights["out_bias"]


def network_gradient(weights, w, by_logits):
    """Back-propagates a gradient with respect to the logits of one clip to the clip."""
    hidden = np.tanh(w @ weights["kernel"] + weights["bias"])
    by_hidden = weights["out_kernel"] @ by_logits
    return weights["kernel"] @ (by_hidden * (1 - hidden**2))


def batch_objective(
    weights,
    x,
    classes,
    v_tanh,
    *,
    coefficient,
    confidence,
    targeted,
    released=False,
    epsilon=EPSILON,
):
    """SPL(v') + c sum_i G(w_i), its sum of hinges and its gradient.

    `released`: the gradient of the authors' code, c sum_i dG(w_i) / dw_i.
    """
    weights = {name: np.asarray(value, np.float64) for name, value in weights.items()}
    hinge = hinge_targeted if targeted else hinge_untargeted
    hinges, gradient = 0.0, np.zeros(len(v_tanh))
    for clip, of_class in zip(x, classes, strict=True):
        w = from_tanh_space(to_tanh_space(clip, epsilon) + v_tanh)
        loss, by_logits = hinge(network_logits(weights, w), of_class, confidence)
        by_w = network_gradient(weights, w, by_logits)
        hinges += loss
        # dw/dv' = (1 - tanh^2) / 2 = 2 w (1 - w)
        gradient += by_w if released else by_w * 2 * w * (1 - w)
    gradient *= coefficient
    if not released:
        gradient += spl_db_gradient(v_tanh)
    return spl_db(v_tanh) + coefficient * hinges, hinges, gradient


def hinge_rounding(weights, x, v_tanh, epsilon=EPSILON):
    """What rounding makes of the sum of hinges, in units of the roundoff.

    Each product in the two layers is off by a roundoff of its own size, and so is what
    follows from it; independent errors add up as the root of their squares. A sum that
    cancels keeps them.
    """
    weights = {name: np.asarray(value, np.float64) for name, value in weights.items()}
    kernel, out_kernel = weights["kernel"], weights["out_kernel"]
    squares = 0.0
    for clip in x:
        w = from_tanh_space(to_tanh_space(clip, epsilon) + v_tanh)
        hidden = np.tanh(w @ kernel + weights["bias"])
        by_hidden = (w**2 @ kernel**2 + weights["bias"] ** 2) * (1 - hidden**2) ** 2
        by_logit = (by_hidden + hidden**2) @ out_kernel**2
        squares += 2 * np.max(by_logit)
    return np.sqrt(squares)


def adam_step(value, gradient, mean, square, count, *, learning_rate):
    """One step of Adam (0.9, 0.999, 1e-8): value, mean and mean square, step count."""
    count += 1
    mean = 0.9 * mean + 0.1 * gradient
    square = 0.999 * square + 0.001 * gradient**2
    unbiased_mean = mean / (1 - 0.9**count)
    unbiased_square = square / (1 - 0.999**count)
    value = value - learning_rate * unbiased_mean / (np.sqrt(unbiased_square) + 1e-8)
    return value, mean, square, count


def project_l2(v, radius):
    """Eq. 2 for p = 2."""
    v = np.asarray(v, np.float64)
    norm = np.sqrt(np.sum(v**2))
    return v if norm <= radius else v * radius / norm


def project_linf(v, radius):
    """Eq. 2 for p = infinity."""
    v = np.asarray(v, np.float64)
    return np.sign(v) * np.minimum(np.abs(v), radius)


def snr_db(x, v):
    """Eq. 14."""
    return 20 * np.log10(rms(x) / rms(v))


def relative_loudness_db(x, v):
    """Eq. 15, with the absolute value that it lacks."""
    return 20 * np.log10(np.max(np.abs(v))) - 20 * np.log10(np.max(np.abs(x)))
