"""What Prometheus is told, from a registry of the server's own."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_MARGINS_MS = (-1000, -100, -20, 0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 5000)
_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """All of them; names begin with `cutoff_server_`."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.frames = Counter(
            "cutoff_server_frames", "Camera frames answered, by status.", ["camera", "status"], registry=self.registry
        )
        self.faults = Counter("cutoff_server_faults", "Faults sent, by code.", ["code"], registry=self.registry)
        self.bytes = Counter("cutoff_server_stream_bytes", "Bytes of streams received.", registry=self.registry)
        self.enough = Counter(
            "cutoff_server_enough", "Camera frames of which the classifier was sure early.", registry=self.registry
        )
        self.cameras = Gauge("cutoff_server_cameras", "Cameras that are connected.", registry=self.registry)
        self.open_frames = Gauge("cutoff_server_open_frames", "Frames not answered yet.", registry=self.registry)
        self.open_bytes = Gauge("cutoff_server_open_bytes", "Bytes claimed by open frames.", registry=self.registry)
        self.margin_ms = Histogram(
            "cutoff_server_margin_milliseconds",
            "Time left at the answer; below 0 it was late.",
            buckets=_MARGINS_MS,
            registry=self.registry,
        )
        self.decode_s = Histogram(
            "cutoff_server_decode_seconds", "Of a worker, per frame.", buckets=_SECONDS, registry=self.registry
        )
        self.store_errors = Counter(
            "cutoff_server_store_errors", "Streams or results that could not be kept.", registry=self.registry
        )
        self.store_bytes = Gauge("cutoff_server_store_bytes", "Bytes of all streams kept.", registry=self.registry)
        self.trimmed = Counter("cutoff_server_trimmed", "Streams trimmed by retention.", registry=self.registry)
        self.deleted = Counter("cutoff_server_deleted", "Streams deleted by retention.", registry=self.registry)

    def page(self) -> bytes:
        """Return the text that Prometheus reads."""
        return generate_latest(self.registry)
