"""Add and remove the people who may use a server."""

import sys
from getpass import getpass
from pathlib import Path

from lib.core.errors import InputError
from lib.server.web.users import Users


def add_user(studies: Path, name: str, token: bool) -> str:
    """Add a person, or change the password; add a program with ``token``.

    Args:
        studies: the folder that is served.
        name: of the user.
        token: whether to make a token instead of asking for a password.

    Returns:
        What to tell the person.

    Raises:
        InputError: the folder, the name or the password can't be used.
    """
    users = _users(studies)
    if token:
        return f"Send this token as 'Authorization: Bearer TOKEN'. It isn't shown again.\n{users.add_token(name)}"
    users.add(name, _ask())
    return f"{name} can log in now. Only people in {users.path} reach what this folder's server serves."


def remove_user(studies: Path, name: str) -> str:
    """Remove a person or a program; arguments, return value and errors as of ``add_user``."""
    users = _users(studies)
    users.remove(name)
    left = ", ".join(users.names())
    return f"{name} can't log in any more. " + (
        f"Users: {left}" if left else f"Nobody can; to let everybody in, remove {users.path}"
    )


def list_users(studies: Path) -> str:
    """List the people and programs; errors as of ``add_user``."""
    users = _users(studies)
    if not users.exist():
        return f"{users.path}: no such file, so everybody who reaches the server is let in"
    return "\n".join(users.names())


def _users(studies: Path) -> Users:
    if not studies.is_dir():
        raise InputError(f"{studies}: no such folder; give the one that the server serves, by --studies")
    return Users(studies)


def _ask() -> str:
    """Ask for a password, twice; read one line where nobody types."""
    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\n")
    password = getpass("Password: ")
    if getpass("The same again: ") != password:
        raise InputError("password: the two differ; try again")
    return password
