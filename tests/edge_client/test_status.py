"""The local port: metrics, health, readiness."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest

from edge_client.metrics import Metrics
from edge_client.status import StatusServer
from runtime.errors import OutputError


@pytest.fixture
def state() -> dict[str, bool]:
    return {"source": True, "server": False}


@pytest.fixture
def server(state: dict[str, bool]) -> Iterator[StatusServer]:
    metrics = Metrics()
    metrics.answers.labels("ok").inc(3)
    one = StatusServer("127.0.0.1", 0, metrics.registry, lambda: {"loop": True}, lambda: state)
    yield one
    one.close()


def get(server: StatusServer, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.port}{path}", timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as refusal:
        with refusal:
            return refusal.code, refusal.read().decode()


def test_metrics_are_prometheus_text(server: StatusServer) -> None:
    """What was counted is there under the client's prefix."""
    status, text = get(server, "/metrics")
    assert status == 200
    assert 'cutoff_edge_answers_total{status="ok"} 3.0' in text


def test_health_and_readiness_say_what_is_missing(server: StatusServer, state: dict[str, bool]) -> None:
    """503 with the reasons until all is well."""
    assert get(server, "/healthz") == (200, '{"loop": true}')
    status, text = get(server, "/readyz")
    assert (status, json.loads(text)) == (503, {"source": True, "server": False})
    state["server"] = True
    assert get(server, "/readyz")[0] == 200


def test_everything_else_is_not_there(server: StatusServer) -> None:
    """Nothing of the file system is served."""
    assert get(server, "/../etc/passwd")[0] == 404


def test_port_in_use_is_one_clear_error(server: StatusServer) -> None:
    """It names the setting."""
    with pytest.raises(OutputError, match=rf"status.port: 127.0.0.1:{server.port}"):
        StatusServer("127.0.0.1", server.port, Metrics().registry, dict, dict)
