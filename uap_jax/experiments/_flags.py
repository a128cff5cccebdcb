"""Flags of `RunConfig` and of folders, defined once for all launchers."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from absl import flags

from uap_jax.files import default_cache_dir, expanded
from uap_jax.runs.config import FLAGS, SETTINGS, RunConfig, type_of

# Flags belong to the launcher that defines them, which --help shows.
flags.disclaim_key_flags()


def define_settings(
    names: Iterable[str] = FLAGS,
    *,
    re_evaluation: bool = False,
    flag_values: flags.FlagValues = flags.FLAGS,
) -> None:
    """Defines flags for fields of `RunConfig`.

    Args:
        names: The fields.
        re_evaluation: Whether they default to None, as those of `evaluate`.
        flag_values: Where they are defined.
    """
    for name in names:
        setting, flag = SETTINGS[name], FLAGS[name]
        help_text = setting.re_evaluation if re_evaluation else setting.help
        default = None if re_evaluation else getattr(RunConfig(), name)
        where: Any = {"flag_values": flag_values}
        if name == "overrides":
            flags.DEFINE_multi_string(flag, default, help_text, **where)
        elif type_of(name) is tuple:
            flags.DEFINE_list(flag, default, help_text, **where)
        elif type_of(name) is bool:
            flags.DEFINE_bool(flag, default, help_text, **where)
        elif type_of(name) is int:
            where |= {"lower_bound": setting.minimum, "upper_bound": 2**31 - 1}
            flags.DEFINE_integer(flag, default, help_text, **where)
        elif type_of(name) is float:
            flags.DEFINE_float(flag, default, help_text, **where)
        elif setting.choices is not None:
            flags.DEFINE_enum(flag, default, setting.choices, help_text, **where)
        else:
            flags.DEFINE_string(flag, default, help_text, **where)


def settings(
    names: Iterable[str] = FLAGS, *, flag_values: flags.FlagValues = flags.FLAGS
) -> dict[str, Any]:
    """Returns the values of flags by field."""
    values = {name: flag_values[FLAGS[name]].value for name in names}
    return {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in values.items()
    }


def define_strict() -> flags.FlagHolder[bool]:
    """Defines --strict."""
    return flags.DEFINE_bool("strict", False, "Whether one bad recording is an error.")


def define_cache_dir() -> flags.FlagHolder[str | None]:
    """Defines --cache_dir."""
    return flags.DEFINE_string(
        "cache_dir",
        None,
        "Where clips, trained models and compiled programs are cached. Default: "
        "$UAP_JAX_CACHE, else uap_jax in $XDG_CACHE_HOME or ~/.cache.",
    )


def define_perturbation() -> flags.FlagHolder[str | None]:
    """Defines --perturbation."""
    return flags.DEFINE_string(
        "perturbation", None, "The work directory of a finished run."
    )


def path_of(flag: flags.FlagHolder[str | None]) -> Path | None:
    """Returns the path that a flag names, or None."""
    return expanded(flag.value) if flag.value else None


def cache_dir_of(flag: flags.FlagHolder[str | None]) -> Path:
    """Returns the cache's folder."""
    return path_of(flag) or default_cache_dir()
