"""`python -m tisdiss_cli` and the `tisdiss` command."""

import os
import sys
from typing import TYPE_CHECKING, Any

from tisdiss_cli.errors import UserError
from tisdiss_cli.libraries import broken_libraries

if TYPE_CHECKING:
    import typer


def main() -> None:
    """Runs the command line: a user's mistake is one sentence on stderr and exit status 2.

    Running out of memory, or a library that cannot be loaded, is one sentence and exit status 1.
    """
    # torch reads this when it first allocates: huge pages avoid hundreds of thousands of page faults a second.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    try:
        _run()
    except Exception:
        if not (sentences := broken_libraries()):
            raise
        for sentence in sentences.values():
            print(f"tisdiss: {sentence}", file=sys.stderr)
        sys.exit(1)


def all_commands() -> "typer.Typer":
    """Returns the app with every command; imports happen here, so that a broken library becomes a sentence."""
    # Importing a command registers it.
    from tisdiss_cli.commands import app, bench, info, mix, report, score, separate, status, train, weights  # noqa: F401

    return app


def _run() -> None:
    import typer

    from tisdiss_cli.commands.console import log, start_logging
    from tisdiss_cli.commands.streams import lost_output, make_streams_safe

    usage_error: Any = typer.BadParameter.__mro__[1]  # click's, or typer's own copy of it
    make_streams_safe()
    start_logging()
    try:
        if "" in sys.argv[1:]:  # as a path it would be the working directory
            raise UserError("an argument is empty: is a shell variable unset?")
        sys.exit(all_commands()(prog_name="tisdiss", standalone_mode=False) or 0)
    except UserError as error:
        log.error(error)
        sys.exit(2)
    except typer.Abort:  # Ctrl-C in some versions of typer
        sys.exit(130)
    except usage_error as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # its message is the help
            error.show()
        else:
            log.error(error.format_message().rstrip("."))
        sys.exit(2)
    except (MemoryError, RuntimeError) as error:
        from tisdiss_cli.devices import OutOfMemory, ran_out

        if not isinstance(error, OutOfMemory) and not ran_out(error):
            raise
        what = error if isinstance(error, OutOfMemory) else "memory ran out"
        log.error(f"{what}: free some or choose another --device")
        sys.exit(1)
    except OSError as error:  # no caller had a better sentence
        if error.filename is None:
            raise
        log.error(f"{error.filename} cannot be read or written: {error.strerror}")
        sys.exit(1)
    except SystemExit as end:
        if (reason := lost_output()) and not end.code:
            log.error(f"the results could not be printed: {reason}")
            sys.exit(1)
        raise


if __name__ == "__main__":
    main()
