"""What people see of a server over HTTP and WebSocket, on streams of the tiny bundle."""

from __future__ import annotations

import asyncio
import io
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as PillowImage
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect
from viewing import TINY, Gallery, scene

from runtime.codec import Codec
from runtime.serve.cuts import Busy, Cuts, Facts
from runtime.serve.events import CameraChanged, FrameProgress
from runtime.serve.small_jpeg import small_jpeg
from runtime.serve.views import PAGE
from runtime.stream import StreamParser, trim


@pytest.fixture(scope="module")
def cuts(own_cache: None) -> Iterator[Cuts]:
    opened = Cuts(TINY)
    yield opened
    opened.close()


@pytest.fixture
def gallery(tmp_path: Path, tiny_stream: bytes) -> Iterator[Gallery]:
    """Camera `yard` with frames 5, 7 and 9, the last of which came in part; camera `hall`, lost, without any."""
    gallery = Gallery(tmp_path / "store")
    for sequence in (5, 7):
        gallery.keep("yard", sequence, tiny_stream, label="fox", confidence=0.75)
    gallery.keep("yard", 9, tiny_stream, held=len(tiny_stream) // 2)
    gallery.events.publish(CameraChanged("hall", False, 1_700_000_000.0))
    yield gallery
    gallery.store.close()


@pytest.fixture
def client(gallery: Gallery, cuts: Cuts) -> Iterator[TestClient]:
    with TestClient(gallery.app(cuts)) as client:
        yield client


def picture_of(content: bytes) -> Any:
    return np.array(PillowImage.open(io.BytesIO(content)))


def body_start(stream: bytes) -> int:
    parser = StreamParser()
    parser.feed(stream)
    assert parser.header is not None
    return parser.header.body_start


def test_cameras_come_with_their_state_and_record(client: TestClient) -> None:
    """Every camera once, its frames oldest first, as a chart draws them."""
    hall, yard = client.get("/v1/cameras").json()["cameras"]
    assert (hall["camera"], hall["connected"], hall["record"]) == ("hall", False, [])
    assert [one["sequence"] for one in yard["record"]] == [5, 7, 9]
    assert yard["record"][0]["label"] == "fox"


def test_frames_come_newest_first_in_portions(client: TestClient) -> None:
    """`before` of an answer asks for the following portion; the last has none."""
    first = client.get("/v1/cameras/yard/frames?limit=2").json()
    assert [one["sequence"] for one in first["frames"]] == [9, 7]
    rest = client.get(f"/v1/cameras/yard/frames?limit=2&before={first['before']}").json()
    assert [one["sequence"] for one in rest["frames"]] == [5]
    assert rest["before"] is None


def test_frame_at_a_cut_says_what_that_prefix_decodes_to(
    client: TestClient, tiny_codec: Codec, tiny_stream: bytes
) -> None:
    """Steps are those of the decoder itself; more bytes never mean fewer steps."""
    size = len(tiny_stream)
    known = []
    for cut in (body_start(tiny_stream), size // 3, 2 * size // 3, size):
        one = client.get(f"/v1/frames/yard/7?bytes={cut}").json()
        assert one["decodable"] and one["bytes"] == cut and one["size"] == size
        assert one["steps"] == tiny_codec.decode(tiny_stream[:cut]).steps
        known.append(one["steps"])
    assert known == sorted(known) and known[0] < known[-1]
    assert one["complete"] and (one["width"], one["height"]) == (96, 80)
    assert (one["earlier"], one["later"]) == (5, 9)
    assert one["answer"]["label"] == "fox"


@pytest.mark.parametrize("cut", [0, 10])
def test_cut_before_the_first_picture_says_where_it_comes(client: TestClient, tiny_stream: bytes, cut: int) -> None:
    """Without header or head segment there is no picture, but its size is known from the rest."""
    one = client.get(f"/v1/frames/yard/7?bytes={cut}").json()
    assert not one["decodable"]
    assert one["first_bytes"] == body_start(tiny_stream)
    assert one["width"] == 96
    refused = client.get(f"/v1/frames/yard/7/picture?bytes={cut}")
    assert refused.status_code == 409
    assert "no picture yet" in refused.json()["error"]


def test_picture_is_the_decoder_s(client: TestClient, tiny_codec: Codec, tiny_stream: bytes) -> None:
    """As PNG it is the same to the bit."""
    cut = len(tiny_stream) // 2
    answer = client.get(f"/v1/frames/yard/7/picture?bytes={cut}&format=png")
    assert answer.headers["content-type"] == "image/png"
    expected = tiny_codec.decode(tiny_stream[:cut]).image
    assert expected is not None
    assert np.array_equal(picture_of(answer.content), expected)


@pytest.mark.parametrize(
    ("query", "accept", "form"),
    [("", "image/webp,*/*;q=0.8", "WEBP"), ("", "*/*", "JPEG"), ("format=png", "image/jpeg", "PNG")],
)
def test_format_is_what_was_asked_for(client: TestClient, query: str, accept: str, form: str) -> None:
    """The parameter counts more than the header."""
    answer = client.get(f"/v1/frames/yard/7/picture?{query}", headers={"Accept": accept})
    assert PillowImage.open(io.BytesIO(answer.content)).format == form


def test_width_makes_smaller_and_never_larger(client: TestClient) -> None:
    """The shape stays."""
    assert picture_of(client.get("/v1/frames/yard/7/picture?width=48").content).shape == (40, 48, 3)
    assert picture_of(client.get("/v1/frames/yard/7/picture?width=4000").content).shape == (80, 96, 3)


def test_picture_is_not_sent_twice(client: TestClient) -> None:
    """A browser that has it is told so."""
    first = client.get("/v1/frames/yard/7/picture?bytes=200")
    again = client.get("/v1/frames/yard/7/picture?bytes=200", headers={"If-None-Match": first.headers["etag"]})
    assert again.status_code == 304
    assert client.get("/v1/frames/yard/7/picture?bytes=201").headers["etag"] != first.headers["etag"]


def test_stream_comes_as_it_is_kept(client: TestClient, tiny_stream: bytes) -> None:
    """Byte for byte, also if it is a part only; asking for more bytes than are kept gives what there is."""
    assert client.get("/v1/frames/yard/7/stream").content == tiny_stream
    half = tiny_stream[: len(tiny_stream) // 2]
    assert client.get("/v1/frames/yard/9/stream").content == half
    one = client.get(f"/v1/frames/yard/9?bytes={len(tiny_stream)}").json()
    assert one["bytes"] == one["held"] == len(half)


def test_trimmed_stream_is_shown(client: TestClient, gallery: Gallery, tiny_stream: bytes) -> None:
    """Retention leaves a smaller valid stream."""
    smaller = trim(tiny_stream, len(tiny_stream) // 2)
    gallery.keep("yard", 11, smaller)
    one = client.get("/v1/frames/yard/11").json()
    assert one["decodable"] and not one["damaged"]
    assert one["held"] == len(smaller)


@pytest.mark.parametrize(
    ("content", "status"),
    [(b"", 404), (b"not a stream at all" * 9, 422), (b"\x00" * 200, 422)],
    ids=["empty", "words", "zeros"],
)
def test_bytes_that_are_no_stream_are_an_error_and_not_a_crash(
    client: TestClient, gallery: Gallery, content: bytes, status: int
) -> None:
    """Whatever a camera sent, viewers hear that it is no stream, or that nothing is kept; the next frame is fine."""
    gallery.keep("yard", 13, content)
    for path in ("/v1/frames/yard/13", "/v1/frames/yard/13/picture"):
        refused = client.get(path)
        assert refused.status_code == status and refused.json()["error"]
    assert client.get("/v1/frames/yard/7/picture").status_code == 200


def test_stream_of_another_bundle_is_an_error(client: TestClient, gallery: Gallery, stream: bytes) -> None:
    """The answer says which bundle it needs."""
    gallery.keep("yard", 13, stream)
    refused = client.get("/v1/frames/yard/13")
    assert refused.status_code == 422
    assert "exact_id" in refused.json()["error"]


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v1/frames/yard/6", 404),
        ("/v1/frames/nobody/7", 404),
        ("/v1/frames/yard/seven", 404),
        ("/v1/frames/yard/99999999999999999999999", 404),
        ("/v1/frames/yard/7?bytes=-1", 400),
        ("/v1/frames/yard/7?bytes=1e3", 400),
        ("/v1/frames/yard/7/picture?width=0", 400),
        ("/v1/frames/yard/7/picture?width=100000", 400),
        ("/v1/frames/yard/7/picture?format=gif", 400),
        ("/v1/cameras/yard/frames?limit=100000", 400),
        ("/page/../views.py", 404),
        ("/page/%2e%2e/views.py", 404),
        ("/page/views.py", 404),
    ],
)
def test_what_there_is_not_is_refused(client: TestClient, path: str, status: int) -> None:
    """With a status that says why."""
    assert client.get(path).status_code == status


def test_nobody_sees_anything_without_a_token(gallery: Gallery, cuts: Cuts) -> None:
    """Every way in is barred; the page itself is open, as it holds nothing."""
    paths = ["/v1/cameras", "/v1/cameras/yard/frames", "/v1/frames/yard/7"]
    paths += ["/v1/frames/yard/7/picture", "/v1/frames/yard/7/stream"]
    gallery.token = "look-0123456789abcdef"
    right, wrong = ({"Authorization": f"Bearer {token}"} for token in (gallery.token, "look-0123456789abcdee"))
    with TestClient(gallery.app(cuts)) as client:
        for path in paths:
            assert client.get(path).status_code == 401
            assert client.get(path, headers=wrong).status_code == 401
            assert client.get(path, headers=right).status_code == 200
        with pytest.raises(WebSocketDisconnect), client.websocket_connect("/v1/watch"):
            pass
        assert not gallery.events.watched
        with client.websocket_connect("/v1/watch", headers=right):
            assert gallery.events.watched
        assert client.get("/").status_code == 200


def test_token_becomes_a_cookie_that_scripts_cannot_read(gallery: Gallery, cuts: Cuts) -> None:
    """A wrong one does not; neither does anything that is no token, however long."""
    gallery.token = "look-0123456789abcdef"
    with TestClient(gallery.app(cuts), base_url="https://testserver") as client:
        assert client.post("/v1/login", json={"token": "wrong"}).status_code == 401
        for body in (b"", b"{", b"[]", b'{"token": 7}', b"\xff", b"[" * 4000, b'{"token": "' + b"x" * 100_000 + b'"}'):
            assert client.post("/v1/login", content=body).status_code == 400
        elsewhere = {"Origin": "https://elsewhere.example"}
        assert client.post("/v1/login", json={"token": gallery.token}, headers=elsewhere).status_code == 400
        assert client.get("/v1/cameras").status_code == 401
        answer = client.post("/v1/login", json={"token": gallery.token})
        assert answer.status_code == 204
        assert all(word in answer.headers["set-cookie"] for word in ("HttpOnly", "Secure", "SameSite=strict"))
        assert client.get("/v1/cameras").status_code == 200
        with client.websocket_connect("wss://testserver/v1/watch"):
            pass


@pytest.mark.parametrize("token", ["\U0005700e" * 20, "a\r\nSet-Cookie: b=c", "\u00fc" * 20, "", "two words"])
def test_what_no_header_can_carry_is_no_token(client: TestClient, token: str) -> None:
    """Not even where everybody may look: it would be a cookie that cannot be written."""
    assert client.post("/v1/login", json={"token": token}).status_code == 401


def test_tokens_cannot_be_tried_out_quickly(gallery: Gallery, cuts: Cuts) -> None:
    """After some failures an address gets nobody in for a while, not even with the right one: that would tell."""
    gallery.token = "look-0123456789abcdef"
    app = gallery.app(cuts)
    with TestClient(app, client=("10.0.0.1", 1)) as client:
        answers = [client.post("/v1/login", json={"token": f"guess {n}"}).status_code for n in range(30)]
        assert set(answers[:20]) == {401} and set(answers[20:]) == {429}
        last = client.post("/v1/login", json={"token": gallery.token})
        assert last.status_code == 429 and last.headers["retry-after"]
    with TestClient(app, client=("10.0.0.2", 1)) as other:  # who does not guess is let in
        assert other.post("/v1/login", json={"token": gallery.token}).status_code == 204


def test_another_site_s_page_gets_nothing(client: TestClient) -> None:
    """A browser would send its visitor's cookie along; the origin gives it away."""
    elsewhere = {"Origin": "https://elsewhere.example"}
    assert client.get("/v1/cameras", headers=elsewhere).status_code == 401
    with pytest.raises(WebSocketDisconnect), client.websocket_connect("/v1/watch", headers=elsewhere):
        pass
    assert client.get("/v1/cameras", headers={"Origin": "http://["}).status_code == 401
    here = {"Origin": "http://testserver"}
    assert client.get("/v1/cameras", headers=here).status_code == 200
    with client.websocket_connect("/v1/watch", headers=here):
        pass


def test_page_asks_nobody_else(client: TestClient) -> None:
    """Files come from the package; they name no other host, and the policy forbids any, and inline scripts."""
    page = client.get("/")
    assert page.headers["content-type"].startswith("text/html")
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy
    for file in PAGE.iterdir():
        text = file.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert "http://" not in text and "https://" not in text, file.name
        if file.name != "index.html":
            assert client.get(f"/page/{file.name}").text == file.read_text(encoding="utf-8")
    assert "style=" not in page.text and "<script>" not in page.text and "onclick" not in page.text
    again = client.get("/page/page.js", headers={"If-None-Match": client.get("/page/page.js").headers["etag"]})
    assert again.status_code == 304


def test_viewer_is_told_of_what_happens(gallery: Gallery, cuts: Cuts, tiny_stream: bytes) -> None:
    """Events come as JSON; those with a picture as a length, the JSON and the picture."""
    with TestClient(gallery.app(cuts)) as client, client.websocket_connect("/v1/watch") as socket:
        assert client.portal is not None
        client.portal.call(gallery.events.publish, CameraChanged("yard", False, 17.0))
        assert json.loads(socket.receive_text()) == {
            "type": "camera",
            "camera": "yard",
            "connected": False,
            "since": 17.0,
        }
        jpeg = small_jpeg(scene(96, 80))
        client.portal.call(gallery.events.publish, FrameProgress("yard", 21, 100, 200, jpeg, "fox", 0.5))
        message = socket.receive_bytes()
        (length,) = struct.unpack_from(">I", message)
        assert json.loads(message[4 : 4 + length]) == {
            "type": "progress",
            "camera": "yard",
            "sequence": 21,
            "bytes": 100,
            "size": 200,
            "label": "fox",
            "confidence": 0.5,
        }
        assert message[4 + length :] == jpeg
        client.portal.call(gallery.events.publish, gallery.keep("yard", 21, tiny_stream, margin_ms=None))
        result = json.loads(socket.receive_text())
        assert (result["type"], result["camera"], result["sequence"]) == ("result", "yard", 21)
        assert result["margin_ms"] is None
        listed = client.get("/v1/cameras/yard/frames?limit=1").json()["frames"][0]
        assert result.items() - {("type", "result"), ("received", result["received"])} <= listed.items()


def test_slow_viewer_is_told_that_it_missed_something(gallery: Gallery, cuts: Cuts) -> None:
    """A thousand events at once: the oldest are lost, and a word of it comes, so that the page asks anew."""

    def storm() -> None:
        for number in range(1000):
            gallery.events.publish(CameraChanged("yard", True, float(number)))

    with TestClient(gallery.app(cuts)) as client, client.websocket_connect("/v1/watch") as socket:
        assert client.portal is not None
        client.portal.call(storm)
        told = [json.loads(socket.receive_text()) for _ in range(3)]
        assert {"type": "missed"} in told
        assert told[0]["since"] > 900


def test_too_many_questions_are_refused(tiny_stream: bytes, cuts: Cuts) -> None:
    """Those beyond the limit get their answer at once; the others are answered."""

    async def ask() -> list[Facts | BaseException]:
        limited = Cuts(TINY, most_waiting=2)
        try:
            questions = [limited.facts(tiny_stream, len(tiny_stream) - n) for n in range(5)]
            return await asyncio.gather(*questions, return_exceptions=True)
        finally:
            limited.close()

    answers = asyncio.run(ask())
    assert [type(one) for one in answers] == [Facts, Facts, Busy, Busy, Busy]


def test_worker_that_dies_is_replaced(tiny_stream: bytes, client: TestClient, cuts: Cuts) -> None:
    """One question is lost, with a word; the next is answered."""
    assert client.get("/v1/frames/yard/7").status_code == 200
    assert cuts._pool is not None
    for process in cuts._pool._processes.values():
        process.kill()
        process.join()
    answers = [client.get("/v1/frames/yard/7") for _ in range(3)]
    assert answers[-1].status_code == 200
    assert all(one.headers.get("retry-after") for one in answers if one.status_code == 503)
