"""Bearer tokens: who may send a request, how many a second, and who may change the models."""

import hashlib
import hmac
import math
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from serving import process
from serving.http.errors import HTTPError
from serving.settings import Settings
from xtrain.errors import ConfigError

Access = Literal["open", "token", "admin"]
LOOK = 2.0  # seconds between two looks at the files of tokens
BURST = 2.0  # seconds of a token's rate that may come at once


@dataclass
class Token:
    """One bearer token, of which only the digest is kept.

    Attributes:
        digest: SHA-256.
        rate: requests a second that it may send; infinite for any number.
    """

    digest: bytes
    rate: float = math.inf
    _saved: float = math.nan  # requests that may come at once
    _last: float = 0.0

    def take(self) -> float:
        """Count a request; return the seconds until it is within the rate, 0 if it is."""
        if math.isinf(self.rate):
            return 0.0
        now, room = time.monotonic(), max(1.0, self.rate * BURST)
        self._saved = room if math.isnan(self._saved) else min(room, self._saved + (now - self._last) * self.rate)
        self._last = now
        if self._saved < 1:
            return (1 - self._saved) / self.rate
        self._saved -= 1
        return 0.0


class Tokens:
    """Bearer tokens, any of which is accepted, so that a new one can be handed out before the old one is withdrawn.

    Every one is compared, in constant time. A file that changed is read again; one that became unreadable is not.
    """

    def __init__(self, tokens: list[Token], path: Path | None = None, workers: int = 1) -> None:
        self._tokens, self._path, self._workers = tokens, path, workers
        self._version, self._looked = _version(path), time.monotonic()

    @classmethod
    def read(cls, path: Path, workers: int = 1) -> "Tokens":
        """Read a file with one token a line, and behind it the requests a second that it may send, if that is limited.

        Empty lines and those that start with # do not count. Of several workers each allows its share.

        Raises:
            ConfigError: unreadable, without a token, or with one that no header can carry.
        """
        return cls(_parse(path, workers), path, workers)

    def find(self, header: str) -> Token | None:
        """Return the token that an `Authorization` header carries, if it is one of these."""
        self._read_again()
        scheme, _, token = header.partition(" ")
        digest = hashlib.sha256(token.strip().encode("utf-8", "surrogateescape")).digest()
        matches = [token for token in self._tokens if hmac.compare_digest(digest, token.digest)]
        return matches[0] if matches and scheme.lower() == "bearer" else None

    def _read_again(self) -> None:
        """Take the file's tokens anew if it changed since the last look."""
        now = time.monotonic()
        if self._path is None or now - self._looked < LOOK:
            return
        self._looked = now
        version = _version(self._path)
        if version == self._version:
            return
        self._version = version
        try:
            self._tokens = _parse(self._path, self._workers)
            process.say(f"note: {self._path}: {len(self._tokens)} tokens from now on")
        except ConfigError as error:
            process.say(f"note: {error}; the tokens before go on")


def _version(path: Path | None) -> tuple[int, int, int] | None:
    """Return what changes when a file does; None where it cannot be looked at."""
    try:
        status = os.stat(path) if path is not None else None
    except OSError:
        return None
    return (status.st_mtime_ns, status.st_size, status.st_ino) if status is not None else None


def _parse(path: Path, workers: int) -> list[Token]:
    """Return the tokens of a file.

    Raises:
        ConfigError: as `Tokens.read`.
    """
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: tokens cannot be read ({error})") from error
    tokens: list[Token] = []
    for line in lines:
        if not line or line.startswith("#"):
            continue
        token, _, rate = line.partition(" ")
        if not (token.isascii() and token.isprintable()):
            tokens = []
            break
        tokens.append(Token(hashlib.sha256(token.encode()).digest(), _rate(rate.strip(), path) / workers))
    if not tokens:
        raise ConfigError(f"{path}: needs at least one token, one a line, of printable ASCII without spaces")
    return tokens


def _rate(text: str, path: Path) -> float:
    """Return the requests a second behind a token.

    Raises:
        ConfigError: not a number above 0.
    """
    if not text:
        return math.inf
    try:
        rate = float(text)
    except ValueError:
        rate = math.nan
    if not 0 < rate < math.inf:
        raise ConfigError(f"{path}: {text[:20]!r} behind a token is not a number of requests a second above 0")
    return rate


@dataclass(frozen=True)
class Refusal:
    """Why a request is refused: what its token lacks, or the seconds until it is within its rate."""

    missing: str = ""
    retry_after: float = 0.0

    def error(self) -> HTTPError:
        """Return the answer: 401 or 429."""
        if self.missing:
            return HTTPError(401, f"{self.missing} is needed; send the header Authorization: Bearer TOKEN")
        seconds = str(max(1, math.ceil(self.retry_after)))
        return HTTPError(429, f"this token has sent its requests; try again in {seconds} s", {"Retry-After": seconds})


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
        count = settings.worker_count
        users = Tokens.read(settings.tokens, count) if settings.tokens else None
        admins = Tokens.read(settings.admin_tokens, count) if settings.admin_tokens else None
        return cls(users, admins)

    def refuse(self, access: Access, header: str) -> Refusal | None:
        """Return why an `Authorization` header does not admit to an operation; None if it does."""
        if access == "open":
            return None
        token = self.admins.find(header) if self.admins is not None else None
        if access == "admin" and token is None:
            return Refusal("an admin's bearer token")
        if token is None and self.users is not None:
            token = self.users.find(header)
            if token is None:
                return Refusal("a bearer token")
        seconds = token.take() if token is not None else 0.0
        return Refusal(retry_after=seconds) if seconds else None
