"""The error whose message is written for users, and a check of names that raises it."""

from collections.abc import Collection


class InputError(ValueError):
    """Input from the user that can't be used.

    The message names the file (or option), the value found, the value expected and what to do.
    """


def check_one_of(option: str, value: str, known: Collection[str]) -> None:
    """Refuse a name that isn't among the known ones.

    Raises:
        InputError: the name is unknown; the message gives the option, the value and the known names.
    """
    if value not in known:
        raise InputError(f"{option}: {value!r}; give one of {', '.join(known)}")
