"""Who may do what: a camera sends under its own token, a viewer looks; no token, no entry."""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Mapping
from pathlib import Path

from runtime.errors import ConfigurationError
from runtime.serve.settings import ServerSettings

COOKIE = "cutoff_viewer"
_SHORTEST = 16  # characters of a secret: 64 bits, if it was drawn as hexadecimal digits


class Tokens:
    """The secrets of a server, as hashes: comparing hashes takes the same time for any guess."""

    def __init__(self, cameras: Mapping[str, str], viewers: Mapping[str, str], *, open_to_viewers: bool) -> None:
        """Keep the hashes of the secrets by name."""
        self._cameras = {name: _hash(secret) for name, secret in cameras.items()}
        self._viewers = {name: _hash(secret) for name, secret in viewers.items()}
        self._open = open_to_viewers

    @classmethod
    def read(cls, settings: ServerSettings, environment: Mapping[str, str] = os.environ) -> Tokens:
        """Take the secrets from settings, environment and files.

        Without viewers' tokens everybody may look at a server that listens on loopback, and nobody at any other.

        Raises:
            ConfigurationError: a secret is not there or too short.
        """
        cameras = {
            name: _secret(text, f"tokens.cameras.{name}", environment) for name, text in settings.tokens.cameras.items()
        }
        viewers = {
            name: _secret(text, f"tokens.viewers.{name}", environment) for name, text in settings.tokens.viewers.items()
        }
        return cls(cameras, viewers, open_to_viewers=not viewers and settings.listen.on_loopback)

    @property
    def cameras(self) -> list[str]:
        """Names of the cameras that have a token."""
        return sorted(self._cameras)

    @property
    def open_to_viewers(self) -> bool:
        """Everybody who can connect may look."""
        return self._open

    def is_camera(self, camera: str, token: str) -> bool:
        """True if *token* is that of *camera*."""
        # A name that is not known is compared, too, so that the answer's time says nothing about names.
        return hmac.compare_digest(self._cameras.get(camera, _hash("")), _hash(token)) and camera in self._cameras

    def camera_of(self, token: str) -> str | None:
        """Return whose token it is, or None."""
        return _whose(self._cameras, token)

    def viewer_of(self, token: str | None) -> str | None:
        """Return the name of the viewer with *token*, "anybody" if none is needed here, or None."""
        if self._open:
            return "anybody"
        return None if token is None else _whose(self._viewers, token)


def bearer(authorization: str | None) -> str | None:
    """Return the token in the header `Authorization: Bearer TOKEN`; None if it is missing or another scheme."""
    scheme, _, token = (authorization or "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" and token.strip() else None


def is_sound(token: str) -> bool:
    """True of what a header can carry as it is: visible characters of ASCII, at least one."""
    return token != "" and token.isascii() and token.isprintable() and " " not in token


def _whose(hashes: Mapping[str, bytes], token: str) -> str | None:
    found, hashed = None, _hash(token)
    for name, known in hashes.items():  # all of them: the time does not tell which was right
        if hmac.compare_digest(known, hashed):
            found = name
    return found


def _hash(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()


def _secret(text: str, where: str, environment: Mapping[str, str]) -> str:
    if text.startswith("env:"):
        secret = environment.get(text[4:], "").strip()
        if not secret:
            raise ConfigurationError(f"{where}: the environment has no {text[4:]}")
    elif text.startswith("file:"):
        try:
            secret = Path(text[5:]).read_text(encoding="utf-8").strip()
        except (OSError, ValueError) as fault:
            raise ConfigurationError(f"{where}: {text[5:]}: {fault}") from fault
    else:
        secret = text
    if len(secret) < _SHORTEST:
        raise ConfigurationError(f"{where}: a token has at least {_SHORTEST} characters; this one has {len(secret)}")
    if not is_sound(secret):
        raise ConfigurationError(f"{where}: a token is of visible ASCII characters, without spaces")
    return secret
