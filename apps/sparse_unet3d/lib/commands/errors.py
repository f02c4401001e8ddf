"""What can go wrong with a server that a command starts."""


class ServerError(RuntimeError):
    """The server did not do what was asked. The message contains the server's reply and the end of its log."""
