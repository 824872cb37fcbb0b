"""`POST /v1/decode`: a stream by HTTP, whole or in pieces, answered by its deadline; and who is refused how."""

from __future__ import annotations

import dataclasses
import io
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import closing
from http.client import HTTPConnection
from typing import Any

import httpx
import numpy as np
import PIL.Image
import pytest
from serving import PATIENCE_S, Running, serving

from runtime.serve import worker
from runtime.serve.settings import LimitSettings

GATE = "gate-0123456789abcdef"
HEADERS = {"Authorization": f"Bearer {GATE}"}


@pytest.fixture(scope="module")
def http_server(tmp_path_factory: pytest.TempPathFactory, settings_in: Any) -> Iterator[Running]:
    """One server for the tests here: uploads leave nothing behind."""
    with serving(settings_in(tmp_path_factory.mktemp("http"))) as one:
        yield one


@pytest.fixture
def post(http_server: Running) -> Any:
    """Post to `/v1/decode`."""

    def post(content: Any, query: str = "", **headers: str) -> httpx.Response:
        address = f"{http_server.http}/v1/decode{query}"
        return httpx.post(address, content=content, headers=HEADERS | headers, timeout=PATIENCE_S, trust_env=False)

    return post


def test_json(post, tiny_stream, crop):
    """The answer says what was decoded."""
    answer = post(tiny_stream, "?deadline_ms=20000")
    facts = answer.json()
    assert (answer.status_code, facts["status"], facts["complete"]) == (200, "ok", True)
    assert (facts["height"], facts["width"]) == crop.shape[:2]
    assert facts["received"] == facts["bytes"] == facts["bytes_total"] == len(tiny_stream)
    assert 0 < facts["margin_ms"] <= 20_000


def test_png_is_the_decoders_picture(post, tiny_codec, tiny_stream):
    """Accept decides; headers carry the rest."""
    prefix = tiny_stream[:200]
    answer = post(prefix, Accept="image/png")
    assert answer.headers["content-type"] == "image/png" and answer.headers["cutoff-status"] == "ok"
    image = np.array(PIL.Image.open(io.BytesIO(answer.content)))
    assert np.abs(image.astype(int) - tiny_codec.decode(prefix).image).max() <= 1
    assert answer.headers["cutoff-bytes"] == "200" and "cutoff-margin-ms" not in answer.headers


def test_a_png_file_that_took_long_once_is_tried_again(post, http_server, tiny_stream, monkeypatch):
    """It takes half of a request's time at most, and is thought to be faster with each that was, or was not written."""
    uploads = http_server.server.uploads
    monkeypatch.setattr(uploads, "_png_s", 100.0)
    answer = post(tiny_stream, "?deadline_ms=20000", Accept="image/png")
    assert (answer.status_code, answer.headers["cutoff-status"]) == (200, "ok")
    assert uploads._png_s == pytest.approx(90.0)
    assert post(b"", Accept="image/png").status_code == 422
    assert uploads._png_s == pytest.approx(81.0)


def test_chunks_without_a_length(post, tiny_stream):
    """A body in pieces is the same body."""
    answer = post(iter([tiny_stream[:100], tiny_stream[100:101], tiny_stream[101:]]))
    assert answer.json()["bytes"] == len(tiny_stream)


def test_a_deadline_ends_an_upload(http_server, tiny_stream, monkeypatch):
    """What arrived by the deadline is decoded and answered as any picture; the rest is not awaited."""
    monkeypatch.setattr(worker, "_SEND_S", 0.5)  # kept before the deadline, so that busy machines are in time, too
    connection = HTTPConnection("127.0.0.1", http_server.port, timeout=PATIENCE_S)
    with closing(connection):
        headers = HEADERS | {"Content-Length": str(len(tiny_stream))}
        connection.request("POST", "/v1/decode?deadline_ms=2000", tiny_stream[:300], headers)
        answer = connection.getresponse()
        facts = json.load(answer)
    assert answer.status == 200 and facts["status"] in ("ok", "preview") and not facts["complete"]
    assert facts["received"] == facts["bytes"] == 300
    assert 0 <= facts["margin_ms"] < 1000


@pytest.mark.parametrize("content", [b"", b"\x89CUT", b"no stream at all, but long enough for a header"])
def test_unusable(post, content):
    answer = post(content)
    assert (answer.status_code, answer.json()["status"]) == (422, "unusable")
    assert answer.json()["message"]


def test_another_bundles_stream(post, golden_folder):
    answer = post((golden_folder / "invalid" / "other-bundle.cut").read_bytes())
    assert answer.status_code == 422 and "exact_id" in answer.json()["message"]


@pytest.mark.parametrize("authorization", ["", "Bearer", "Bearer wrong-0123456789abcdef", f"Basic {GATE}"])
def test_no_token_no_entry(post, tiny_stream, authorization):
    answer = post(tiny_stream, Authorization=authorization)
    assert answer.status_code == 401 and answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(
    "query", ["?deadline_ms=0", "?deadline_ms=-5", "?deadline_ms=nan", "?deadline_ms=soon", "?deadline_ms=1e9"]
)
def test_deadlines_that_are_none(post, tiny_stream, query):
    assert post(tiny_stream, query).status_code == 400


def test_too_long(post, tiny_stream):
    """A claim is refused before the body is read, and a body without one as soon as it is too long."""
    assert post(bytes((1 << 20) + 1)).status_code == 413
    assert post(iter([tiny_stream, *[bytes(1 << 19)] * 3])).status_code == 413


def test_overload_is_429_with_retry_after(post, http_server, tiny_stream, monkeypatch):
    """When the desk cannot keep one more deadline, it says when to try again, and answers the others."""
    desk = http_server.server.uploads.desk
    monkeypatch.setattr(type(desk), "overload_s", lambda self, camera, due: 2.3 if due is not None else 0.0)
    answer = post(tiny_stream, "?deadline_ms=500")
    assert answer.status_code == 429 and answer.headers["retry-after"] == "3"
    assert post(tiny_stream).status_code == 200


def test_too_many_uploads_at_a_time(settings, tiny_stream):
    """The first is being read, the second is told to wait."""
    few = dataclasses.replace(settings, limits=LimitSettings(frames=1))
    with serving(few) as running, socket.create_connection(("127.0.0.1", running.port)) as slow:
        head = f"POST /v1/decode HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {GATE}\r\nContent-Length: 500\r\n\r\n"
        slow.sendall(head.encode() + tiny_stream[:50])
        for _ in range(int(PATIENCE_S / 0.02)):
            if running.server.uploads.open_requests:
                break
            threading.Event().wait(0.02)
        answer = httpx.post(f"{running.http}/v1/decode", content=tiny_stream, headers=HEADERS, trust_env=False)
        assert answer.status_code == 429 and int(answer.headers["retry-after"]) >= 1
    assert running.server.uploads.open_requests == running.server.uploads.open_bytes == 0
