"""What the client counts and measures, for Prometheus: names begin with `cutoff_edge_`."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_SECONDS = (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.0, 5.0)


class Metrics:
    """All figures, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.pictures = self._counter("pictures", "pictures by what the encoder made of them", "outcome")
        self.captured = self._gauge("captured_pictures", "pictures taken from the source since the start")
        self.replaced = self._gauge("replaced_pictures", "pictures that a newer one replaced before they were encoded")
        self.encoded_bytes = self._counter("encoded_bytes", "bytes of all streams")
        self.encode_s = self._histogram("encode_seconds", "time to shape and encode a picture")
        self.sent_bytes = self._gauge("sent_bytes", "bytes of streams sent since the start")
        self.frames = self._counter("frames", "camera frames by what became of them before their deadline", "outcome")
        self.answers = self._counter("answers", "answers of the server to frames with a deadline", "status")
        self.in_time = self._counter("answers_in_time", "answers that arrived here by the deadline")
        self.answer_s = self._histogram("answer_seconds", "from the picture until its answer arrived here")
        self.resent = self._counter("resent", "answers to frames of the spool", "status")
        self.connections = self._counter("connections", "attempts to connect", "outcome")
        self.connected = self._gauge("connected", "1 while the server takes frames")
        self.source = self._gauge("source_working", "1 while the source gives pictures")
        self.rate = self._gauge("link_bytes_per_second", "what the link delivers")
        self.round_trip_s = self._gauge("link_round_trip_seconds", "shortest round trip of late")
        self.server_answer_s = self._gauge("server_answer_seconds", "what the server needs for an answer, as learned")
        self.in_flight = self._gauge("link_bytes_in_flight", "bytes sent and not acknowledged")
        self.spool_frames = self._gauge("spool_frames", "frames in the spool")
        self.spool_bytes = self._gauge("spool_bytes", "bytes of their streams")
        self.spool_evicted = self._gauge(
            "spool_evicted_frames", "frames that gave way to the spool's caps since the start"
        )
        self.spool_set_aside = self._gauge("spool_set_aside", "damaged spools that were set aside since the start")
        self.spool_errors = self._counter("spool_errors", "frames or notes that the spool could not keep")

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"cutoff_edge_{name}", text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(f"cutoff_edge_{name}", text, registry=self.registry)

    def _histogram(self, name: str, text: str) -> Histogram:
        return Histogram(f"cutoff_edge_{name}", text, buckets=_SECONDS, registry=self.registry)
