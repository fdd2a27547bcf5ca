"""Bearer tokens: who may send a request, and who may swap the model."""

import hashlib
import hmac
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from serving.settings import Settings
from xtrain.errors import ConfigError

Access = Literal["open", "token", "admin"]


class Tokens:
    """Bearer tokens, any of which is accepted, so that a new one can be handed out before the old one is withdrawn.

    Only digests are kept, and every one is compared, in constant time.
    """

    def __init__(self, tokens: list[str]) -> None:
        self._digests = [hashlib.sha256(token.encode()).digest() for token in tokens]

    @classmethod
    def read(cls, path: Path) -> "Tokens":
        """Read a file with one token a line; empty lines and those that start with # do not count.

        Raises:
            ConfigError: unreadable, without a token, or with one that no header can carry.
        """
        try:
            lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: tokens cannot be read ({error})") from error
        tokens = [line for line in lines if line and not line.startswith("#")]
        if not tokens or not all(token.isascii() and token.isprintable() and " " not in token for token in tokens):
            raise ConfigError(f"{path}: needs at least one token, one a line, of printable ASCII without spaces")
        return cls(tokens)

    def accept(self, header: str) -> bool:
        """Return whether an `Authorization` header carries one of them."""
        scheme, _, token = header.partition(" ")
        digest = hashlib.sha256(token.strip().encode("utf-8", "surrogateescape")).digest()
        matches = [hmac.compare_digest(digest, known) for known in self._digests]
        return scheme.lower() == "bearer" and any(matches)


@dataclass(frozen=True)
class Authorization:
    """The tokens of a server; `users` None admits everybody, `admins` None nobody."""

    users: Tokens | None = None
    admins: Tokens | None = None

    @classmethod
    def read(cls, settings: Settings) -> "Authorization":
        """Read the files that the settings name.

        Raises:
            ConfigError: as `Tokens.read`.
        """
        users = Tokens.read(settings.tokens) if settings.tokens else None
        admins = Tokens.read(settings.admin_tokens) if settings.admin_tokens else None
        return cls(users, admins)

    def missing(self, access: Access, header: str) -> str | None:
        """Return what an `Authorization` header lacks for an operation; None if it may pass."""
        if access == "open":
            return None
        is_admin = self.admins is not None and self.admins.accept(header)
        if access == "admin":
            return None if is_admin else "an admin's bearer token"
        if self.users is None or is_admin or self.users.accept(header):
            return None
        return "a bearer token"
