"""Errors of a user, one sentence each."""

from collections.abc import Sequence


class UserError(ValueError):
    """A user's mistake: names the file or option, what is wrong and what to do, in one sentence.

    The command line prints the sentence on stderr, without a traceback, and exits with status 2.
    """


def listed(things: Sequence[object], separator: str = ", ", most: int = 10) -> str:
    """Returns the first of them, and how many more there are: "a, b and 3 more"."""
    more = f" and {len(things) - most} more" if len(things) > most else ""
    return separator.join(map(str, things[:most])) + more
