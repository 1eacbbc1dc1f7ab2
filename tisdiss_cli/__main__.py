"""`python -m tisdiss_cli` and the `tisdiss` command."""

import os
import sys

# Importing a command registers it.
from tisdiss_cli.commands import app, bench, info, mix, report, score, separate, status, train, weights  # noqa: F401
from tisdiss_cli.commands.console import log, start_logging
from tisdiss_cli.commands.streams import lost_output, mend_streams
from tisdiss_cli.errors import UserError


def main() -> None:
    """Runs the command line; a user's mistake is one sentence on stderr and exit status 2, want of memory 1."""
    # Read by torch when it first allocates: huge pages spare a CPU hundreds of thousands of page faults a second.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    mend_streams()
    start_logging()
    try:
        _run()
    except SystemExit as end:
        if (reason := lost_output()) and not end.code:
            log.error(f"the results could not be printed: {reason}")
            sys.exit(1)
        raise


def _run() -> None:
    try:
        if "" in sys.argv[1:]:  # a path, it would be the folder one stands in
            raise UserError("an argument is empty: was a variable of the shell never set?")
        app(prog_name="tisdiss")
    except UserError as error:
        log.error(error)
        sys.exit(2)
    except (MemoryError, RuntimeError) as error:
        from tisdiss_cli.devices import OutOfMemory, ran_out

        if not isinstance(error, OutOfMemory) and not ran_out(error):
            raise
        what = error if isinstance(error, OutOfMemory) else "memory ran out"
        log.error(f"{what}: free some or choose another --device")
        sys.exit(1)
    except OSError as error:  # whoever knew more to say of it has said so
        if error.filename is None:
            raise
        log.error(f"{error.filename} cannot be read or written: {error.strerror}")
        sys.exit(1)


if __name__ == "__main__":
    main()
