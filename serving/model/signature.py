"""Signatures of model files: who exported a file, beyond that it arrived whole.

M.onnx.sig holds 64 bytes, Ed25519 (RFC 8032) over the 32 bytes of the file's SHA-256. Keys are PEM files as openssl
makes them (RFC 8410: PKCS #8 and SubjectPublicKeyInfo), and openssl alone can sign and verify:

    openssl genpkey -algorithm ed25519 -out key.pem && openssl pkey -in key.pem -pubout -out public.pem
    openssl dgst -sha256 -binary M.onnx > digest
    openssl pkeyutl -verify -pubin -inkey public.pem -rawin -in digest -sigfile M.onnx.sig
"""

import base64
import binascii
import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path

from xtrain.errors import ConfigError, ModelFileError

# What stands before the 32 bytes of a key in DER: the algorithm 1.3.101.112 and lengths, always the same.
PRIVATE, PUBLIC = bytes.fromhex("302e020100300506032b657004220420"), bytes.fromhex("302a300506032b6570032100")
BYTES = 64  # of a signature
LARGEST_KEY = 64 * 2**10  # bytes of a PEM file, which may say in words whose key it holds


def sidecar(path: Path) -> Path:
    """Return the path of a model file's signature: `M.onnx.sig`."""
    return path.with_name(f"{path.name}.sig")


@dataclass(frozen=True)
class PrivateKey:
    """What signs; `seed` are 32 bytes."""

    seed: bytes

    @classmethod
    def read(cls, path: Path) -> "PrivateKey":
        """Read a PEM file.

        Raises:
            ConfigError: unreadable, too large, encrypted, or no Ed25519 key; or PyNaCl is not installed.
        """
        return cls(_key(path, "PRIVATE KEY", PRIVATE, "--sign"))

    def sign(self, digest: str) -> bytes:
        """Return the signature of a file by its SHA-256 in hexadecimal."""
        from nacl.signing import SigningKey

        return bytes(SigningKey(self.seed).sign(bytes.fromhex(digest)).signature)


@dataclass(frozen=True)
class PublicKey:
    """What verifies; `value` are 32 bytes."""

    value: bytes

    @classmethod
    def read(cls, path: Path) -> "PublicKey":
        """Read a PEM file.

        Raises:
            ConfigError: unreadable, too large, or no public Ed25519 key; or PyNaCl is not installed.
        """
        return cls(_key(path, "PUBLIC KEY", PUBLIC, "--verify-key"))

    def verify(self, path: Path, digest: str) -> None:
        """Compare a file's signature with what was read of it.

        Args:
            path: the file, beside which its signature lies.
            digest: SHA-256 in hexadecimal of the bytes that are to be used.

        Raises:
            ModelFileError: no signature, or not one of this key and these bytes.
        """
        from nacl.exceptions import BadSignatureError
        from nacl.signing import VerifyKey

        beside = sidecar(path)
        try:
            with open(beside, "rb") as file:
                signature = file.read(BYTES + 1)
        except OSError as error:
            reason = error.strerror or error
            raise ModelFileError(
                f"{path}: no signature in {beside.name} ({reason}), and --verify-key asks for one"
            ) from error
        try:
            if len(signature) != BYTES:
                raise ValueError
            VerifyKey(self.value).verify(bytes.fromhex(digest), signature)
        except (BadSignatureError, ValueError) as error:
            raise ModelFileError(
                f"{path}: {beside.name} is not a signature of this file by the key of --verify-key; do not use it"
            ) from error


def _key(path: Path, label: str, prefix: bytes, option: str) -> bytes:
    """Return the 32 bytes of a key in a PEM file."""
    if importlib.util.find_spec("nacl") is None:
        raise ConfigError(f"{option}: PyNaCl is not installed; install xtrain[sign]")
    try:
        with open(path, "rb") as file:
            content = file.read(LARGEST_KEY + 1)
        if len(content) > LARGEST_KEY:
            raise ConfigError(f"{option} {path}: is larger than {LARGEST_KEY // 2**10} KiB; name the PEM file of a key")
        text = content.decode("ascii")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not a PEM file"
        raise ConfigError(f"{option} {path}: cannot be read ({reason})") from error
    match = re.search(f"-----BEGIN {label}-----([^-]*)-----END {label}-----", text)
    try:
        content = base64.b64decode("".join(match[1].split()), validate=True) if match else b""
    except binascii.Error:
        content = b""
    if len(content) != len(prefix) + 32 or not content.startswith(prefix):
        raise ConfigError(
            f"{option} {path}: no {label.lower()} of Ed25519 in PEM, unencrypted; make one with "
            "openssl genpkey -algorithm ed25519, and its public one with openssl pkey -pubout"
        )
    return content[len(prefix) :]
