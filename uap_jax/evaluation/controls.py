"""Controls of a success rate, and what of it they explain.

Both controls have the perturbation's RMS and are added to the same clips in the same
way. White Gaussian noise, drawn anew for each clip, tells what the level does. Noise of
the same spectrum, one sound for all clips as the perturbation is, tells what the colour
does. The rest is due to the waveform.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from uap_jax.attacks import Perturbation
from uap_jax.audio import levels
from uap_jax.text import is_number


def white_noise(
    perturbation: Perturbation, key: jax.Array, *, num_clips: int
) -> Perturbation:
    """Returns white Gaussian noise with the perturbation's RMS.

    Args:
        perturbation: The perturbation, `[N]`.
        key: Random key; consumed.
        num_clips: B.

    Returns:
        A perturbation for each clip: its value is `[B, N]`.
    """
    v = perturbation.value
    noise = jax.random.normal(key, (num_clips, len(v)), v.dtype)
    return dataclasses.replace(perturbation, value=levels.rms(v) * noise)


@jax.jit
def same_spectrum(perturbation: Perturbation, key: jax.Array) -> Perturbation:
    """Returns the perturbation with its phases drawn anew.

    With V = rfft(v) and phases phi_k uniform in [0, 2 pi),

        u = irfft(V_k exp(i phi_k)),

    so that |rfft(u)| = |rfft(v)|, and the RMS is that of v (Parseval). The mean of v
    stays as it is, and so does silence. At half the sample rate, a bin of even lengths
    where a real signal has no other phase, only the sign is drawn.

    Args:
        perturbation: The perturbation, `[N]`; v' in tanh space.
        key: Random key; consumed.

    Returns:
        A perturbation `[N]` in the same space.
    """
    v = perturbation.value
    spectrum = jnp.fft.rfft(v)
    phases = 2 * jnp.pi * jax.random.uniform(key, spectrum.shape, v.dtype)
    phases = phases.at[0].set(0.0)
    if len(v) % 2 == 0:
        phases = phases.at[-1].set(jnp.where(phases[-1] < jnp.pi, 0.0, jnp.pi))
    turned = spectrum * jax.lax.complex(jnp.cos(phases), jnp.sin(phases))
    return dataclasses.replace(perturbation, value=jnp.fft.irfft(turned, len(v)))


def does_as_well(control: Mapping[str, Any], test: Mapping[str, Any]) -> bool:
    """Returns whether a success rate is not clearly above that of a control.

    It is clearly above if it is higher and the 95 % intervals do not overlap.

    Args:
        control: "asr" and, where known, "asr_ci95", as of `summarize`.
        test: The same of the perturbation.

    Returns:
        The answer; False where a rate is not known.
    """
    if not (is_number(control.get("asr")) and is_number(test.get("asr"))):
        return False
    if test["asr"] <= control["asr"]:
        return True
    match control.get("asr_ci95"), test.get("asr_ci95"):
        case [_, high], [low, _] if is_number(high) and is_number(low):
            return low <= high
    return False


def describe_controls(control: Mapping[str, Any]) -> str:
    """Returns the success rates of both controls in words.

    Args:
        control: "control" of `summarize`; earlier results have no "same_spectrum".
    """
    words = f"white noise {control['asr']:.3f}"
    if same := control.get("same_spectrum"):
        words += f", noise of the same spectrum {same['asr']:.3f}"
    return words


def explain_success(test: Mapping[str, Any], control: Mapping[str, Any]) -> str:
    """Returns what of a success is not the waveform's, or nothing.

    Args:
        test: "test" of `summarize`.
        control: As in `describe_controls`.

    Returns:
        A sentence, if there is success and a control does as well, see `does_as_well`,
        or if noise of the same spectrum reaches at least half of the success rate.
    """
    if test.get("asr") == 0:
        return ""
    same = control.get("same_spectrum") or {}
    white, coloured = does_as_well(control, test), does_as_well(same, test)
    if white and coloured:
        return (
            "Noise of the same RMS does as well, white or of the same spectrum: the "
            "success is the level's, not the waveform's."
        )
    if white:
        return (
            "White noise of the same RMS does as well: the success is the level's, not "
            "the waveform's."
        )
    if coloured:
        return (
            "Noise of the same spectrum does as well: the success is the colour's, not "
            "the waveform's."
        )
    share = same.get("asr")
    if is_number(share) and is_number(test.get("asr")) and 2 * share >= test["asr"]:
        return (
            "Noise of the same spectrum reaches at least half of that rate: much of "
            "the success is not the waveform's."
        )
    return ""
