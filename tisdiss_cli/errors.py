"""What a user did wrong, as one sentence."""


class UserError(ValueError):
    """A user's mistake: names the file or option, what is wrong and what to do, in one sentence.

    The command line prints the sentence on stderr, without a traceback, and exits with status 2.
    """
