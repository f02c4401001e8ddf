"""Exceptions that callers act on: input that can't be used, with a message for users, and work that was stopped."""

from collections.abc import Collection


class InputError(ValueError):
    """Input from the user that can't be used.

    The message names the file (or option), the value found, the value expected and what to do.
    """


class Stopped(Exception):
    """The work was given up because somebody asked for that. What it had done so far is kept where it says so."""


def check_one_of(option: str, value: str, known: Collection[str]) -> None:
    """Refuse a name that isn't among the known ones.

    Raises:
        InputError: the name is unknown; the message gives the option, the value and the known names.
    """
    if value not in known:
        raise InputError(f"{option}: {value!r}; give one of {', '.join(known)}")
