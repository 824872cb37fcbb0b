"""A server with a classifier: labels on answers, and an early end where it is sure."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from serving import Camera, Running, serving

from runtime import Codec
from runtime.errors import ConfigurationError, DataError
from runtime.protocol import Chunk, Enough, Frame, Result
from runtime.serve import worker
from runtime.serve.classify import open_classifier
from runtime.serve.settings import ClassifierSettings, ServerSettings

GATE = "gate-0123456789abcdef"
DEADLINE_S = 20.0


@pytest.fixture
def colours(tmp_path: Path, classifier_of_colours: bytes) -> ClassifierSettings:
    """A classifier of colours, and its labels."""
    (tmp_path / "colours.onnx").write_bytes(classifier_of_colours)
    (tmp_path / "labels.txt").write_text("n01 red\nn02 green\nn03 blue\n")
    return ClassifierSettings(tmp_path / "colours.onnx", tmp_path / "labels.txt", side=64)


@pytest.fixture(scope="module")
def stream(tiny_codec: Codec) -> bytes:
    """A picture in whose decoded form some colour leads, as the networks of the tiny bundle have it."""
    draw = np.random.default_rng(0)
    return tiny_codec.encode(draw.integers(0, 256, (80, 96, 3), np.uint8)).stream


def expected(colours: ClassifierSettings, codec: Codec, prefix: bytes) -> Any:
    return open_classifier(colours)(codec.decode(prefix).image)


@pytest.fixture
def server(settings: ServerSettings, colours: ClassifierSettings, request: Any) -> Iterator[Running]:
    """A server with the classifier; the parameter is `enough`."""
    with_classifier = dataclasses.replace(colours, enough=getattr(request, "param", None))
    with serving(dataclasses.replace(settings, classifier=with_classifier)) as one:
        yield one


def test_answers_have_labels(server, colours, tiny_codec, stream):
    """By WebSocket and by HTTP, those of the decoded picture."""
    label = expected(colours, tiny_codec, stream)
    with Camera(server.port, "gate", GATE, tiny_codec.bundle.exact_id.hex()) as gate:
        gate.greet()
        gate.send(Frame(1, len(stream), None, DEADLINE_S, 1e9), Chunk(1, 0, stream))
        result = gate.until(Result)
    assert result.label == label.name and result.confidence == pytest.approx(label.confidence, abs=0.01)
    headers = {"Authorization": f"Bearer {GATE}"}
    answer = httpx.post(f"{server.http}/v1/decode", content=stream, headers=headers, timeout=20, trust_env=False)
    assert answer.json()["label"] == label.name


@pytest.mark.parametrize("server", [0.01], indirect=True)
def test_a_sure_classifier_ends_a_frame_early(server, tiny_codec, stream):
    """The camera hears `enough`, and the answer comes without the rest and long before the deadline."""
    with Camera(server.port, "gate", GATE, tiny_codec.bundle.exact_id.hex()) as gate:
        gate.greet()
        gate.send(Frame(1, len(stream), None, DEADLINE_S, 1e9), Chunk(1, 0, stream[:-100]))
        assert gate.until(Enough) == Enough(1)
        result = gate.until(Result)
        assert result.status == "ok" and result.bytes == len(stream) - 100
        assert result.margin_ms > 1000 * DEADLINE_S / 2


@pytest.mark.parametrize("server", [1.0], indirect=True)
def test_an_unsure_classifier_asks_for_more(server, tiny_codec, stream, monkeypatch):
    """The camera never hears `enough`, and the answer waits for more until its deadline."""
    monkeypatch.setattr(worker, "_SEND_S", 0.5)  # kept before the deadline, so that busy machines are in time, too
    with Camera(server.port, "gate", GATE, tiny_codec.bundle.exact_id.hex()) as gate:
        gate.greet()
        gate.send(Frame(1, len(stream), None, 2.0, 1e9), Chunk(1, 0, stream[:-100]))
        result = gate.until(Result)
        assert not [one for one in gate.seen if isinstance(one, Enough)]
        assert result.bytes == len(stream) - 100 and result.margin_ms < 1000


def test_files_that_are_none(colours, tmp_path):
    """A classifier or labels that are missing, or no model, are refused by their names."""
    with pytest.raises(ConfigurationError, match="classifier"):
        open_classifier(dataclasses.replace(colours, file=tmp_path / "none.onnx"))
    with pytest.raises(DataError, match=r"none\.txt"):
        open_classifier(dataclasses.replace(colours, labels=tmp_path / "none.txt"))
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    with pytest.raises(DataError, match=r"broken\.onnx"):
        open_classifier(dataclasses.replace(colours, file=tmp_path / "broken.onnx"))
