"""Views, page and live events of a real server that a camera sends to."""

from __future__ import annotations

import dataclasses
import json
import struct
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

import pytest
from serving import PATIENCE_S, Camera, Running, serving
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from runtime.protocol import Chunk, End, Frame, Result
from runtime.serve.settings import ServerSettings, TokenSettings

LOOK = {"Authorization": "Bearer look-0123456789abcdef"}


def get(running: Running, path: str, headers: dict[str, str] = LOOK) -> Any:
    """Return an answer's JSON, or its status if it is an error."""
    try:
        with urllib.request.urlopen(urllib.request.Request(running.http + path, headers=headers)) as answer:
            return json.loads(answer.read())
    except urllib.error.HTTPError as fault:
        with fault:
            return fault.code


def event_of(message: str | bytes) -> tuple[dict[str, Any], bytes]:
    """Return a message of /v1/watch, and its picture."""
    if isinstance(message, str):
        return json.loads(message), b""
    (length,) = struct.unpack_from(">I", message)
    return json.loads(message[4 : 4 + length]), message[4 + length :]


def test_camera_is_seen_from_its_first_byte_to_its_loss(
    running: Running, camera: Callable[..., Camera], tiny_stream: bytes
) -> None:
    """A viewer hears that it connected, that its frame was answered, with the picture, and that it was lost."""
    with connect(f"{running.ws}/v1/watch", additional_headers=LOOK) as viewer:
        gate = camera()
        assert event_of(viewer.recv(PATIENCE_S))[0]["connected"] is True
        gate.send(Frame(1, len(tiny_stream), None, 20.0, 1e9), Chunk(1, 0, tiny_stream[:300]), End(1, 300))
        sent = gate.until(Result)
        event, picture = event_of(viewer.recv(PATIENCE_S))
        while event["type"] != "result":
            event, picture = event_of(viewer.recv(PATIENCE_S))
        assert (event["camera"], event["sequence"], event["bytes"]) == ("gate", 1, sent.bytes)
        assert picture.startswith(b"\xff\xd8")
        (seen,) = get(running, "/v1/cameras")["cameras"]
        assert seen["connected"] and seen["record"][0]["margin_ms"] == sent.margin_ms
        one = get(running, "/v1/frames/gate/1?bytes=300")
        assert one["steps"] == sent.steps and one["answer"]["status"] == sent.status
        gate.close()
        lost = event_of(viewer.recv(PATIENCE_S))[0]
        assert (lost["type"], lost["connected"]) == ("camera", False)
    (seen,) = get(running, "/v1/cameras")["cameras"]
    assert not seen["connected"] and seen["since"] == lost["since"]


def test_viewers_need_a_token_and_a_camera_s_is_none(running: Running) -> None:
    """Neither over HTTP nor over the WebSocket."""
    gate = {"Authorization": "Bearer gate-0123456789abcdef"}
    for headers in ({}, gate):
        assert get(running, "/v1/cameras", headers) == 401
        with pytest.raises(InvalidStatus), connect(f"{running.ws}/v1/watch", additional_headers=headers):
            pass


def test_open_server_answers_to_names_of_this_machine_only(settings: ServerSettings) -> None:
    """Another site's name may be made to mean 127.0.0.1; its pages learn nothing."""
    without = dataclasses.replace(settings, tokens=TokenSettings(cameras=settings.tokens.cameras))
    with serving(without) as running:
        assert get(running, "/v1/cameras", {}) == {"cameras": []}
        assert get(running, "/v1/cameras", {"Host": f"localhost:{running.port}"}) == {"cameras": []}
        for name in ("elsewhere.example", "127.0.0.1.elsewhere.example", "[::2]", "[", ""):
            assert get(running, "/v1/cameras", {"Host": name}) == 401
