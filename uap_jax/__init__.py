"""Universal adversarial perturbations for audio classifiers, compiled with JAX."""

__version__ = "0.2.0"
