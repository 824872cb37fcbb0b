"""The same application as a Ray Serve deployment: several servers, a camera always with the same one.

    proxy of Ray Serve -> Sticky: by the camera's name -> a replica: the application of `build_app`, store in its slot

A server that dies is started anew, takes the free slot and goes on with what is stored there; its cameras connect
again, and find it by the slot. Needs the extra `ray`, with `ray[serve]`.

Both are Ray's documented ways: `RequestRouterConfig` names the router, and a session id, the header X-Session-Id,
reaches it with the request; cameras give their name there. Ray's own ConsistentHashRouter goes by the names of
replicas, which a server that is started anew does not keep. Browsers cannot set a header for a picture, so the router
looks at the path, too, in the request as Ray's proxy has packed it: that is not documented, and if it changed, pictures
of other servers' cameras would not be found, and cameras would still stay.
"""

from __future__ import annotations

import pickle
import random
import threading
from collections.abc import Callable
from typing import Any

import ray
from ray import serve
from ray.serve.config import AutoscalingConfig, RequestRouterConfig
from ray.serve.request_router import RequestRouter
from starlette.applications import Starlette

from runtime.serve.app import build_app
from runtime.serve.settings import ServerSettings
from runtime.serve.slots import Slot
from runtime.serve.sticky import camera_of, ranked

NAME = "cutoff"
_slots: list[Slot] = []  # of this process: one at most


class Sticky(RequestRouter):  # type: ignore[misc]
    """Brings a camera's connections, and requests about it, to its server; anything else to any."""

    async def choose_replicas(self, candidate_replicas: list[Any], pending_request: Any = None) -> list[list[Any]]:
        """Return the replicas to try, the best first."""
        # Where its one server cannot take a request yet, Ray shall wait before it asks again.
        if pending_request is not None:
            pending_request.routing_context.should_backoff = True
        camera = _camera_of(pending_request)
        if camera is None:
            return [random.sample(candidate_replicas, len(candidate_replicas))]
        placed = {one.replica_metadata["place"]: one for one in candidate_replicas}
        # Only its own server is offered: one that is merely slow to say how busy it is keeps its cameras. One that is
        # dead is no candidate any more.
        return [[placed[place]] for place in ranked(camera, placed)[:1]]


def _camera_of(pending: Any) -> str | None:
    """Return the camera that a request which waits for a replica is about; None if it is about none."""
    if pending is None:
        return None
    request = pending.args[0] if pending.args else None
    if isinstance(request, bytes):
        request = pickle.loads(request)  # packed in this very process
    return camera_of(getattr(request, "asgi_scope", None) or {}, pending.metadata.session_id)


class Replica:
    """One server; what Ray Serve wraps the application in."""

    def record_replica_metadata(self) -> dict[str, Any]:
        """Tell the router where this server's store is, before its first request."""
        return {"place": f"{ray.get_runtime_context().get_node_id()}/{_slots[0].number}"}


def deployment(settings: ServerSettings) -> Any:
    """Return the application for `serve.run`."""
    of_ray = settings.ray
    build: Callable[[], Starlette] = lambda: _build(settings)  # noqa: E731  (a function of its own for each replica)
    options: dict[str, Any] = (
        {"num_replicas": of_ray.replicas}
        if of_ray.most_replicas is None
        else {
            "autoscaling_config": AutoscalingConfig(
                min_replicas=of_ray.replicas,
                max_replicas=of_ray.most_replicas,
                target_ongoing_requests=of_ray.cameras_per_replica,
            )
        }
    )
    return serve.deployment(
        name=NAME,
        max_ongoing_requests=settings.listen.connections,
        ray_actor_options={"num_cpus": of_ray.cpus},
        graceful_shutdown_timeout_s=20.0,
        request_router_config=RequestRouterConfig(request_router_class=Sticky),
        **options,
    )(serve.ingress(build)(Replica)).bind()


def run(settings: ServerSettings, until: threading.Event) -> None:
    """Serve on a cluster until *until* is set."""
    ray.init(address=settings.ray.address, ignore_reinit_error=True, log_to_driver=False)
    listen = settings.listen
    tls = {} if listen.key is None else {"ssl_keyfile": str(listen.key), "ssl_certfile": str(listen.certificate)}
    serve.start(http_options={"host": listen.host, "port": listen.port, **tls})
    try:
        serve.run(deployment(settings), name=NAME, route_prefix="/")
        until.wait()
    finally:
        serve.shutdown()
        ray.shutdown()


def _build(settings: ServerSettings) -> Starlette:
    slot = Slot(settings.store.folder)
    _slots[:] = [slot]
    return build_app(slot.settings(settings))
