"""The user's mistakes: one line instead of a traceback."""

import contextlib
from collections.abc import Generator


class UsageError(Exception):
    """The user's mistake: one line that says what was expected and what came."""


@contextlib.contextmanager
def user_mistakes(*others: type[Exception]) -> Generator[None, None, None]:
    """Turns a ValueError, or an error of other kinds, into a `UsageError`."""
    try:
        yield
    except (ValueError, *others) as error:
        raise UsageError(" ".join(str(error).split())) from error
