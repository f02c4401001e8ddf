"""The one error that people who use the software are meant to read."""


class InputError(ValueError):
    """Something that the user gave cannot be used.

    The message names the file (or option), the value found, the value expected and what to do.
    """
