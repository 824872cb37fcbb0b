"""What a server says of itself: health, readiness, metrics, description; and that it ends as it should."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import re
import select
import socket
import threading
from contextlib import ExitStack
from typing import Any

import httpx
import pytest
from serving import PATIENCE_S, Camera, Running, serving
from starlette.routing import Route

from runtime.errors import OutputError
from runtime.protocol import Ack, Chunk, End, Frame, Result
from runtime.serve import listen as listen_module
from runtime.serve.app import Server, build_app
from runtime.serve.openapi import document
from runtime.serve.settings import ListenSettings, TokenSettings

GATE, LOOK = "gate-0123456789abcdef", "look-0123456789abcdef"


def get(running: Running, path: str, token: str | None = None) -> httpx.Response:
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    return httpx.get(f"{running.http}{path}", headers=headers, timeout=PATIENCE_S, trust_env=False)


def test_health_and_readiness(running):
    assert get(running, "/healthz").text == "ok\n"
    assert get(running, "/readyz").json() == {"ready": True}
    running.server.ready = False
    answer = get(running, "/readyz")
    assert (answer.status_code, answer.json()) == (503, {"ready": False})
    answer = httpx.post(f"{running.http}/v1/decode", trust_env=False)
    assert answer.status_code == 503 and answer.headers["retry-after"]


def test_a_worker_that_has_ended_shows(running):
    """Nobody would be answered any more: whoever watches over the process has to start it anew."""
    desk = running.server.intake.desk
    assert desk.alive
    desk._workers[0].stop()
    desk._workers[0].join(PATIENCE_S)
    answer = get(running, "/healthz")
    assert answer.status_code == 503 and "ended" in answer.text


def test_metrics_count_what_happens(running, camera, tiny_stream):
    """For viewers only; frames by camera and status, bytes, faults, margins."""
    gate = camera()
    gate.send(Frame(1, len(tiny_stream), None, 20.0, 1e9), Chunk(1, 0, tiny_stream))
    gate.until(Result)
    gate.send(Frame(2, 1 << 30, None, None, 1e9))
    gate.receive()
    assert get(running, "/metrics").status_code == get(running, "/metrics", GATE).status_code == 401
    text = get(running, "/metrics", LOOK).text
    values = dict(re.findall(r"^(\S+) (\S+)$", text, re.MULTILINE))
    assert values['cutoff_server_frames_total{camera="gate",status="ok"}'] == "1.0"
    assert values['cutoff_server_faults_total{code="too_large"}'] == "1.0"
    assert float(values["cutoff_server_stream_bytes_total"]) == len(tiny_stream)
    assert float(values["cutoff_server_store_bytes"]) == len(tiny_stream)
    assert values["cutoff_server_margin_milliseconds_count"] == "1.0"
    assert values["cutoff_server_cameras"] == "1.0" and values["cutoff_server_open_frames"] == "0.0"


def test_whatever_fails_the_store_is_looked_after_again(settings, monkeypatch, caplog):
    """What went wrong is logged and counted; a fault of the program with where it was."""
    often = dataclasses.replace(settings, store=dataclasses.replace(settings.store, every_s=0.001))
    server = Server(often, {})
    faults = [OutputError("the disk is full"), ValueError("odd")]

    def retain() -> tuple[int, int]:
        if faults:
            raise faults.pop(0)
        return 2, 1

    async def look_after() -> None:
        looking = asyncio.create_task(server.retain())
        while not looking.done() and server.metrics.trimmed._value.get() == 0:
            await asyncio.sleep(0.001)
        looking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await looking

    monkeypatch.setattr(server.store, "retain", retain)
    with caplog.at_level(logging.ERROR, "cutoff.serve"):
        asyncio.run(asyncio.wait_for(look_after(), PATIENCE_S))
    server.store.close()
    assert server.metrics.store_errors._value.get() == 2
    assert [bool(record.exc_info) for record in caplog.records] == [False, True]


def test_description_lists_exactly_the_http_routes(settings, running, tmp_path):
    """OpenAPI's paths and methods are the application's, the page's own files apart."""
    app = build_app(dataclasses.replace(settings, store=dataclasses.replace(settings.store, folder=tmp_path / "other")))
    app.state.server.store.close()
    described = {(path, method.upper()) for path, methods in document()["paths"].items() for method in methods}
    served = {
        (route.path, method)
        for route in app.routes
        if isinstance(route, Route) and not route.path.startswith("/page/") and route.path != "/"
        for method in route.methods - {"HEAD"}
    }
    assert described == served
    assert get(running, "/openapi.json").json() == document()


def test_answers_are_as_described(running, camera, tiny_stream):
    """Every JSON answer has the keys and types of its schema, and none besides."""
    gate = camera()
    gate.send(Frame(1, len(tiny_stream), None, 20.0, 1e9), Chunk(1, 0, tiny_stream))
    gate.until(Result)
    gate.send(Frame(2, len(tiny_stream), None, 20.0, 1e9), Chunk(2, 0, tiny_stream[:300]), End(2, 300))
    gate.until(Result)
    asked = {
        "/v1/cameras": "/v1/cameras",
        "/v1/cameras/gate/frames": "/v1/cameras/{camera}/frames",
        "/v1/frames/gate/1": "/v1/frames/{camera}/{sequence}",
        "/v1/frames/gate/2?bytes=5": "/v1/frames/{camera}/{sequence}",
        "/v1/frames/gate/3": "/v1/frames/{camera}/{sequence}",
        "/v1/cameras/gate/frames?limit=0": "/v1/cameras/{camera}/frames",
        "/v1/frames/gate/1/picture?bytes=5": "/v1/frames/{camera}/{sequence}/picture",
        "/readyz": "/readyz",
    }
    seen = set()
    for path, route in asked.items():
        answer = get(running, path, LOOK)
        seen.add(answer.status_code)
        assert misfits(answer.json(), described_answer(route, "get", answer.status_code)) == []
    assert seen == {200, 400, 404, 409}
    for data in (tiny_stream, tiny_stream[:20]):
        headers = {"Authorization": f"Bearer {GATE}"}
        answer = httpx.post(f"{running.http}/v1/decode", content=data, headers=headers, trust_env=False)
        assert misfits(answer.json(), described_answer("/v1/decode", "post", answer.status_code)) == []
    assert misfits({"frames": [{"camera": 7}]}, {"$ref": "#/components/schemas/Frames"})  # it does find some


def described_answer(route: str, method: str, status: int) -> dict[str, Any]:
    content = document()["paths"][route][method]["responses"][str(status)]["content"]
    schema: dict[str, Any] = content["application/json"]["schema"]
    return schema


def misfits(value: Any, schema: dict[str, Any], where: str = "answer") -> list[str]:
    """Return where *value* is not as *schema* says, of the words of JSON Schema that the description uses."""
    if "$ref" in schema:
        return misfits(value, document()["components"]["schemas"][schema["$ref"].rpartition("/")[2]], where)
    if "anyOf" in schema:
        found = [misfits(value, one, where) for one in schema["anyOf"]]
        return [] if [] in found else found[0]
    if ("enum" in schema and value not in schema["enum"]) or ("const" in schema and value != schema["const"]):
        return [f"{where}: {value!r}"]
    kinds = schema.get("type", [])
    types = {"string": str, "integer": int, "number": (int, float), "boolean": bool, "null": type(None)}
    types |= {"array": list, "object": dict}
    named = [types[kind] for kind in ([kinds] if isinstance(kinds, str) else kinds)]
    if named and not any(isinstance(value, kind) for kind in named):
        return [f"{where}: {value!r}"]
    if isinstance(value, list):
        return [
            line for number, one in enumerate(value) for line in misfits(one, schema["items"], f"{where}[{number}]")
        ]
    if isinstance(value, dict) and "properties" in schema:
        known = schema["properties"]
        odd = [f"{where}.{name}" for name in {*schema["required"], *value} if name not in value or name not in known]
        return odd + [
            line
            for name in known.keys() & value.keys()
            for line in misfits(value[name], known[name], f"{where}.{name}")
        ]
    return []


def test_a_server_that_ends_answers_what_is_open(settings, tiny_codec, tiny_stream):
    """SIGTERM is no reason to lose what came: it is decoded and kept."""
    exact_id = tiny_codec.bundle.exact_id.hex()
    with serving(settings) as running, Camera(running.port, "gate", GATE, exact_id) as gate:
        gate.greet()
        gate.send(Frame(1, len(tiny_stream), None, 50.0, 1e9), Chunk(1, 0, tiny_stream[:300]))
        waited = threading.Event()
        while gate.receive().bytes < 300:
            waited.wait(0.01)
        gate.send(Frame(2, len(tiny_stream), None, 0.2, 1e9), Chunk(2, 0, tiny_stream[:200]))
        gate.until(Result)
        gate.send(Chunk(2, 200, tiny_stream[200:250]))  # too late for the answer, but not for the store
        while gate.receive() != Ack(2, 250):
            waited.wait(0.01)
    again = Server(settings, {})
    assert again.store.stream(again.store.frame("gate", 2)) == tiny_stream[:250]
    row = again.store.frame("gate", 1)
    assert again.store.stream(row) == tiny_stream[:300]
    assert row.result.status == "ok" and row.result.bytes == 300
    again.store.close()


# Connections.


def test_connections_beyond_the_cap_are_closed_and_the_others_served(settings, tiny_codec, tiny_stream):
    """A thousand connections that say nothing do not keep a camera from its answer."""
    listen = dataclasses.replace(settings.listen, connections_per_address=20)
    exact_id = tiny_codec.bundle.exact_id.hex()
    with (
        serving(dataclasses.replace(settings, listen=listen)) as running,
        Camera(running.port, "gate", GATE, exact_id) as gate,
        ExitStack() as stack,
    ):
        gate.greet()
        idle = [stack.enter_context(socket.create_connection(("127.0.0.1", running.port))) for _ in range(100)]
        open_ones = set(idle)
        for _ in range(int(PATIENCE_S / 0.02)):
            readable, _, _ = select.select(list(open_ones), [], [], 0.02)
            open_ones -= set(readable)  # nothing is ever sent to them: readable means closed
            if len(open_ones) == 19:
                break
        assert len(open_ones) == 19
        gate.send(Frame(1, len(tiny_stream), None, 20.0, 1e9), Chunk(1, 0, tiny_stream))
        assert gate.until(Result).status == "ok"


@pytest.mark.parametrize(
    "sent", [b"", b"GET /healthz HTTP/1.1\r\nHost:", b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\nGET"]
)
def test_a_request_that_does_not_come_is_not_awaited(settings, sent):
    """Neither the first one of a connection, nor one that follows."""
    slow = dataclasses.replace(settings, listen=ListenSettings(request_s=0.1))
    with serving(slow) as running, socket.create_connection(("127.0.0.1", running.port)) as connection:
        connection.settimeout(PATIENCE_S)
        connection.sendall(sent)
        received = b""
        try:
            while data := connection.recv(4096):
                received += data
        except ConnectionResetError:
            pass
        assert (b"200 OK" in received) == sent.endswith(b"GET")


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"POST /v1/login HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n", b"408"),
        (b"GET /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n", b"200"),
    ],
    ids=["login", "answered without it"],
)
def test_a_body_that_does_not_come_is_not_awaited(settings, head, status):
    """Neither where it is needed, before anybody has shown a token, nor after the answer, whatever trickles in."""
    slow = dataclasses.replace(settings, listen=ListenSettings(request_s=0.2))
    with serving(slow) as running, socket.create_connection(("127.0.0.1", running.port)) as connection:
        connection.settimeout(PATIENCE_S)
        connection.sendall(head)
        assert status in connection.recv(4096).partition(b"\r\n")[0]
        with contextlib.suppress(ConnectionError):
            connection.sendall(b"x")
            while connection.recv(4096):
                pass


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="this system has no TCP_USER_TIMEOUT")
def test_a_connection_that_takes_nothing_ends(settings, monkeypatch):
    """Not even one that goes on asking before anybody has shown a token."""
    monkeypatch.setattr(listen_module, "_UNREAD_S", 0.5)
    with serving(settings) as running, socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(PATIENCE_S)
        connection.connect(("127.0.0.1", running.port))
        with pytest.raises(ConnectionError):
            while True:
                connection.sendall(b"GET /page/cameras.js HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" * 1000)


# Settings and secrets.


def test_viewers_need_a_token_unless_only_this_machine_can_ask(settings):
    """Without any token, a server on loopback is open to it, and any other is closed."""
    nobody = dataclasses.replace(settings, tokens=TokenSettings(cameras={"gate": GATE}))
    with serving(nobody) as running:
        assert get(running, "/metrics").status_code == 200
    elsewhere = dataclasses.replace(nobody, listen=ListenSettings(host="0.0.0.0"))
    with serving(elsewhere) as running:
        assert get(running, "/metrics").status_code == 401
