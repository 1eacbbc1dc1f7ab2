"""`python -m tisdiss_cli` and the `tisdiss` command."""

import os
import sys

# Importing a command registers it.
from tisdiss_cli.commands import app, bench, mix, score, separate, train, weights  # noqa: F401
from tisdiss_cli.errors import UserError


def main() -> None:
    """Runs the command line; a user's mistake is one sentence on stderr and exit status 2."""
    # Read by torch when it first allocates: huge pages spare a CPU hundreds of thousands of page faults a second.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    try:
        app(prog_name="tisdiss")
    except UserError as error:
        print(f"tisdiss: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
