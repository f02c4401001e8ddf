"""The people who may use a server: ``users.json`` in the studies folder, with hashes of passwords and tokens.

Without this file, the server lets in everybody who reaches it. With it, only the people in it.
"""

import hashlib
import hmac
import os
import secrets
import time
from contextlib import AbstractContextManager
from pathlib import Path

import jwt
from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from pydantic import BaseModel, ConfigDict, ValidationError

from lib.core.errors import InputError
from lib.core.files import replacing
from lib.core.locking import OwnedLock

from .requests import LONGEST_TEXT, Name

FILE = "users.json"

SHORTEST_PASSWORD = 8
"""Characters; NIST SP 800-63B asks for no fewer."""

VALID_FOR = 7 * 24 * 3600
"""Seconds for which a login is valid. Slicer's plugin logs in again by itself while it runs."""

HASHER = PasswordHasher()
SOMEBODY = HASHER.hash(secrets.token_urlsafe())
"""Hash to verify for an unknown name, so that the time of the reply doesn't tell which names are known."""


class User(BaseModel):
    """How a person proves who it is.

    Attributes:
        password: argon2 hash.
        token: SHA-256 of a token, in hexadecimal digits.
    """

    model_config = ConfigDict(extra="forbid")

    password: str | None = None
    token: str | None = None


class _Content(BaseModel):
    model_config = ConfigDict(extra="forbid")

    secret: str
    users: dict[Name, User]


class Users:
    """The file of users; each call reads it again if it has changed, so changes count at once."""

    def __init__(self, studies: str | Path) -> None:
        """Use the file in the folder ``studies``."""
        self.path = Path(studies, FILE)
        self._read: tuple[tuple[int, int], _Content] | None = None

    def exist(self) -> bool:
        """Return whether people must log in."""
        # A link to nowhere, as of a disk that isn't mounted, lets nobody in.
        return os.path.lexists(self.path)

    def names(self) -> list[str]:
        """Return the names of all users.

        Raises:
            InputError: the file is damaged.
        """
        return sorted(self._content().users) if self.exist() else []

    def add(self, name: str, password: str) -> None:
        """Add a person, or change the password.

        Raises:
            InputError: the name can't be used, the password is too short, or the file is damaged or in use.
        """
        if not SHORTEST_PASSWORD <= len(password) <= LONGEST_TEXT or not password.isprintable():
            raise InputError(
                f"password: {len(password)} characters; give {SHORTEST_PASSWORD} to {LONGEST_TEXT} printable ones"
            )
        with self._changing():
            self._set(name, User(password=HASHER.hash(password)))

    def add_token(self, name: str) -> str:
        """Add a program, or change its token; return the token, which is kept nowhere.

        Raises:
            InputError: the name can't be used, or the file is damaged or in use.
        """
        token = secrets.token_urlsafe(32)
        with self._changing():
            if self.exist() and self._content().users.get(name, User()).password:
                raise InputError(f"{name!r}: a person with a password has this name; give the program another name")
            self._set(name, User(token=_digest(token)))
        return token

    def remove(self, name: str) -> None:
        """Remove a person; a login of that person is no longer valid.

        Raises:
            InputError: there is no such user, or the file is damaged or in use.
        """
        with self._changing():
            if name not in self.names():
                raise InputError(f"{name!r}: no such user; {self.path} has {', '.join(self.names()) or 'none'}")
            content = self._content()
            self._write(content.model_copy(update={"users": {k: v for k, v in content.users.items() if k != name}}))

    def log_in(self, name: str, password: str) -> str | None:
        """Return a token that is valid for ``VALID_FOR`` seconds; None for a wrong name or password.

        Raises:
            InputError: the file is damaged.
        """
        content = self._content()
        known = content.users.get(name, User()).password
        try:
            HASHER.verify(known or SOMEBODY, password)
        except (VerificationError, InvalidHashError):
            return None
        if known is None:
            return None
        claims = {"sub": name, "exp": int(time.time()) + VALID_FOR, "of": _digest(known)}
        return jwt.encode(claims, content.secret, algorithm="HS256")

    def name_of(self, token: str) -> str | None:
        """Return whose token this is; None if it isn't valid.

        Raises:
            InputError: the file is damaged.
        """
        content = self._content()
        digest = _digest(token)
        for name, user in content.users.items():
            if user.token is not None and hmac.compare_digest(user.token, digest):
                return name
        try:
            claims = jwt.decode(token, content.secret, algorithms=["HS256"], options={"require": ["exp", "sub", "of"]})
        except jwt.InvalidTokenError:
            return None
        password = content.users.get(claims["sub"], User()).password
        # A new password ends the logins by the old one.
        is_current = password is not None and hmac.compare_digest(str(claims["of"]), _digest(password))
        return str(claims["sub"]) if is_current else None

    def _content(self) -> _Content:
        try:
            state = self.path.stat()
            seen = (state.st_mtime_ns, state.st_ino)
            if self._read is None or self._read[0] != seen:
                self._read = seen, _Content.model_validate_json(self.path.read_bytes())
        except (OSError, ValidationError) as error:
            raise InputError(
                f"{self.path}: the file of users can't be read ({type(error).__name__}); put it back from a copy, or "
                "remove it and add the users again"
            ) from error
        return self._read[1]

    def _changing(self) -> AbstractContextManager[None]:
        """Let no other process change the file meanwhile."""
        return OwnedLock(self.path.with_name(f".{FILE}.lock"), f"the file of users {self.path}").hold()

    def _set(self, name: str, user: User) -> None:
        content = self._content() if self.exist() else _Content(secret=secrets.token_hex(32), users={})
        try:
            self._write(_Content.model_validate({"secret": content.secret, "users": {**content.users, name: user}}))
        except ValidationError as error:
            raise InputError(f"{name!r}: can't be a user's name; give a short one of printable characters") from error

    def _write(self, content: _Content) -> None:
        # Who reads the secret can log in as anybody.
        with (
            replacing(self.path) as beside,
            open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file,
        ):
            file.write(content.model_dump_json(indent=2, exclude_none=True) + "\n")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
