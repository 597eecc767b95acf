"""Signatures on manifests: only the holder of a trusted key can publish.

Ed25519 (RFC 8032); a manifest has the hash of every other file of its version. The private key is made at the first
publication, or is in the file that `LOBSMITH_SIGNING_KEY_FILE` names; serving needs none. Trusted public keys are in
`.lobsmith/keys/trusted.pub` or the file that `LOBSMITH_TRUSTED_KEYS_FILE` names, one a line: 64 hexadecimal digits, a
space, a comment.
"""

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from lobsmith.errors import ReleaseError
from lobsmith.files import fsync_directory, write_atomic
from lobsmith.workspace import Workspace

SIGNATURE = "manifest.sig"
SIGNING_KEY_FILE = "LOBSMITH_SIGNING_KEY_FILE"
TRUSTED_KEYS_FILE = "LOBSMITH_TRUSTED_KEYS_FILE"

_PURPOSE = b"lobsmith manifest 1\n"
"""Prefix of the signed content: the signature is valid for manifests only."""


@dataclass(frozen=True)
class Trust:
    """A file of trusted public keys, read anew at each check."""

    path: Path

    @classmethod
    def of(cls, workspace: Workspace) -> "Trust":
        """Return the trusted keys of a workspace."""
        named = os.environ.get(TRUSTED_KEYS_FILE)
        return cls(Path(named) if named else workspace.keys / "trusted.pub")

    def check(self, path: Path, content: bytes) -> None:
        """Check the signature beside a file with this content.

        Raises:
            ReleaseError: it is not signed, not with a trusted key, or no key is trusted here.
        """
        place = path.with_name(SIGNATURE)
        try:
            signature = bytes.fromhex(place.read_text())
        except FileNotFoundError:
            raise ReleaseError(f"{path}: not signed ({SIGNATURE} is missing); publish the version again") from None
        except (OSError, ValueError) as error:
            raise ReleaseError(f"{place}: not a signature: {error}; publish the version again") from error
        if not any(_signed(key, signature, content) for key in self.keys()):
            raise ReleaseError(
                f"{path}: changed after it was signed, or signed with a key that {self.path} does not trust; "
                "publish the version again, or add the publisher's public key there"
            )

    def keys(self) -> list[bytes]:
        """Return the trusted keys, 32 bytes each.

        Raises:
            ReleaseError: the file is missing or empty, or a line is not a key.
        """
        try:
            lines = [line.split()[0] for line in self.path.read_text().splitlines() if line.strip()]
            keys = [bytes.fromhex(line) for line in lines]
        except (OSError, ValueError) as error:
            raise ReleaseError(
                f"{self.path}: no trusted keys: {error}; the first publication makes it, or set {TRUSTED_KEYS_FILE}"
            ) from error
        if not keys or any(len(key) != 32 for key in keys):
            raise ReleaseError(f"{self.path}: a line must begin with a public key of 64 hexadecimal digits")
        return keys


class Signer:
    """A private key; it never leaves this object."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key

    @property
    def public_key(self) -> str:
        """The public key, 64 hexadecimal digits."""
        return self._key.public_key().public_bytes_raw().hex()

    def sign(self, content: bytes) -> str:
        """Return the signature of a file's content, as in its signature file."""
        return self._key.sign(_PURPOSE + content).hex() + "\n"

    def __repr__(self) -> str:
        return f"Signer({self.public_key})"


def signer(workspace: Workspace) -> Signer:
    """Return the publisher's key; a missing one is made, and trusted.

    Raises:
        ReleaseError: the key file is readable by others, invalid, or missing where the environment names it.
    """
    named = os.environ.get(SIGNING_KEY_FILE)
    path = Path(named) if named else workspace.keys / "publisher.key"
    if not named and not path.exists():
        _make(path, Trust.of(workspace).path)
    try:
        mode = path.stat().st_mode
        if mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise ReleaseError(f"{path}: others may read the signing key; make it private with chmod 600")
        key = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(path.read_text()))
    except OSError as error:
        raise ReleaseError(f"{path}: {error.strerror}; {SIGNING_KEY_FILE} must name the signing key") from error
    except ValueError:
        # The cause would quote the key.
        raise ReleaseError(f"{path}: not an Ed25519 key of 64 hexadecimal digits") from None
    return Signer(key)


def _make(path: Path, trusted: Path) -> None:
    """Make a key and trust it first: a crash leaves a trusted key without a file, never an untrusted publisher."""
    key = Ed25519PrivateKey.generate()
    before = trusted.read_bytes() if trusted.exists() else b""
    line = f"{key.public_key().public_bytes_raw().hex()} {path}\n".encode()
    write_atomic(trusted, before + line)
    fresh = path.with_name(f".{path.name}.{token_hex(4)}")
    write_atomic(fresh, key.private_bytes_raw().hex().encode(), mode=0o600)
    try:
        fresh.rename(path)
    finally:
        fresh.unlink(missing_ok=True)
    fsync_directory(path.parent)


def _signed(key: bytes, signature: bytes, content: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, _PURPOSE + content)
    except InvalidSignature:
        return False
    return True
