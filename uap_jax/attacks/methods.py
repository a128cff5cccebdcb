"""The universal attacks by name, for those who run any of them."""

import importlib

from uap_jax.attacks.decoupled import DECOUPLED
from uap_jax.attacks.greedy import GREEDY
from uap_jax.attacks.penalty import PENALTY
from uap_jax.attacks.types import Method

METHODS = {method.name: method for method in (PENALTY, GREEDY, DECOUPLED)}


def resolve_method(name: str) -> Method:
    """The method of a name in `METHODS`, or of `package.module:NAME`.

    Raises:
        ValueError: There is none, or it is no `Method`.
    """
    if name in METHODS:
        return METHODS[name]
    module_name, colon, attribute = name.partition(":")
    if not colon:
        raise ValueError(
            f"method: expected one of {', '.join(METHODS)} or package.module:NAME, "
            f"got {name!r}"
        )
    try:
        method = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"method: expected {name} to exist, got {error}") from error
    if not isinstance(method, Method):
        raise ValueError(
            f"method: expected {name} to be an attacks.Method, "
            f"got {type(method).__name__}"
        )
    return method
