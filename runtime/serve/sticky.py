"""Which of several servers a camera belongs to: always the same one, as long as that lives.

Rendezvous hashing: every server has a weight for every camera, and the heaviest wins. If one goes, its cameras spread
over the others, and nobody else's camera moves.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import parse_qs

from runtime.protocol import INGEST_PATH, MAX_NAME

_WITH_CAMERA = ("/v1/cameras/", "/v1/frames/")


def camera_of(scope: Mapping[str, Any], session: str = "") -> str | None:
    """Return the camera that a request is about; None if it is about none, or does not say.

    Args:
        scope: of ASGI; path and query say more than the session.
        session: the header `NAME_HEADER`, empty if there is none.
    """
    path = str(scope.get("path", ""))
    name = session
    if path == INGEST_PATH:
        query = scope.get("query_string", b"").decode("latin-1")
        with contextlib.suppress(ValueError):  # too many fields
            name = parse_qs(query, max_num_fields=10).get("camera", [session])[0]
    for start in _WITH_CAMERA:
        if path.startswith(start):
            name = path[len(start) :].partition("/")[0]
    return name if name and len(name) <= MAX_NAME else None


def ranked(camera: str, servers: Iterable[str]) -> list[str]:
    """Return *servers*, by name, in the order in which *camera* should be served by them."""
    return sorted(servers, key=lambda server: hashlib.sha256(f"{server}\n{camera}".encode()).digest(), reverse=True)
