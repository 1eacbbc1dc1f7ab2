"""`python -m tisdiss_cli` and the `tisdiss` command."""

import sys

from tisdiss_cli.commands import app, mix, separate, train, weights  # noqa: F401  importing a command registers it
from tisdiss_cli.errors import UserError


def main() -> None:
    """Runs the command line; a user's mistake is one sentence on stderr and exit status 2."""
    try:
        app(prog_name="tisdiss")
    except UserError as error:
        print(f"tisdiss: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
