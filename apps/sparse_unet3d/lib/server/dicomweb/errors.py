"""What goes wrong with an archive."""

from lib.core.errors import InputError


class ArchiveError(InputError):
    """The archive can't be reached, or doesn't do what it is asked for; the same may succeed later."""


class Refused(ArchiveError):
    """The archive can be reached, and refuses this request."""
