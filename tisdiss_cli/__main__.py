"""`python -m tisdiss_cli` and the `tisdiss` command."""

import os
import sys

# Importing a command registers it.
from tisdiss_cli.commands import app, bench, info, mix, score, separate, train, weights  # noqa: F401
from tisdiss_cli.commands.console import log, start_logging
from tisdiss_cli.errors import UserError


def main() -> None:
    """Runs the command line; a user's mistake is one sentence on stderr and exit status 2."""
    # Read by torch when it first allocates: huge pages spare a CPU hundreds of thousands of page faults a second.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    start_logging()
    try:
        app(prog_name="tisdiss")
    except UserError as error:
        log.error(error)
        sys.exit(2)


if __name__ == "__main__":
    main()
