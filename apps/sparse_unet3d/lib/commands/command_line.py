"""What all command lines of this software share: signals, error messages and exit codes."""

import os
import signal
import sys

import typer

from lib.core.errors import InputError

from .errors import ServerError

INTERRUPTED = 130
"""Exit code after Ctrl-C, as typer gives it."""


def make_app(text: str) -> typer.Typer:
    """Return a command line without commands; ``text`` says what it is for."""
    # A traceback with all local variables helps nobody who types commands.
    return typer.Typer(help=text, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


def run(app: typer.Typer, name: str) -> int:
    """Run the command that ``sys.argv`` asks for.

    Args:
        app: all commands.
        name: what a person types before the command.

    Returns:
        1 if a server failed, 2 for bad input.

    Raises:
        SystemExit: otherwise; its code is 0 for success, 2 for a wrong command line, 130 after an interrupt, or the
            command's own.
    """
    # On a stop signal, unwind as on Ctrl-C, which ends the server that the demo started. A shell makes commands in the
    # background ignore Ctrl-C; this undoes that.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    # Process pools end their forked workers by SIGTERM, and would wait forever for a worker that survives it.
    os.register_at_fork(after_in_child=lambda: signal.signal(signal.SIGTERM, signal.SIG_DFL))
    try:
        app(prog_name=name)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    except ServerError as error:
        print(error, file=sys.stderr)
    except SystemExit as end:
        # Typer turns an interrupt into this exit without a message.
        if end.code == INTERRUPTED:
            print("Interrupted.", file=sys.stderr)
        raise
    return 1
