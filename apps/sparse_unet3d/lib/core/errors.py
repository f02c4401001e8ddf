"""The error whose message is written for users."""


class InputError(ValueError):
    """Input from the user that can't be used.

    The message names the file (or option), the value found, the value expected and what to do.
    """
