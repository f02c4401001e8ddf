"""What can go wrong with a server that a command starts."""


class ServerError(RuntimeError):
    """The server did not do what was asked. The message holds its reply and the end of its log."""
