"""Users' mistakes, one sentence each."""

from collections.abc import Sequence


class UserError(ValueError):
    """User's mistake: one sentence that names the file or option, what is wrong, and what to do.

    The command line prints the sentence on stderr, without a traceback, and exits with status 2.
    """


def listed(things: Sequence[object], separator: str = ", ", most: int = 10) -> str:
    """Returns the first `most` things, and the number of the others: "a, b and 3 more"."""
    more = f" and {len(things) - most} more" if len(things) > most else ""
    return separator.join(map(str, things[:most])) + more
