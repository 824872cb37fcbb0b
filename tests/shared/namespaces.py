"""Two hosts on one machine with a poor link of packets between them: what TCP really makes of loss and delay.

    namespace "near" [tun0] <-> a thread here: queue, rate, delay, loss <-> [tun0] namespace "far"

Network namespaces joined by two TUN devices, whose packets this process carries; a kernel without netem will do. It
needs root (or as much of it), /dev/net/tun and the command `ip`; `why_not` says what is missing.
"""

from __future__ import annotations

import ctypes
import fcntl
import heapq
import itertools
import os
import random
import selectors
import shutil
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from runtime.shaped_link import Conditions, Trace

NEAR_ADDRESS, FAR_ADDRESS = "10.199.0.1", "10.199.0.2"
_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
_CLONE_NEWNET = 0x40000000
_MTU = 1500


def why_not() -> str | None:
    """Return what is missing for `two_hosts`; None if nothing is."""
    if shutil.which("ip") is None:
        return "the command ip is not installed"
    if not os.access("/dev/net/tun", os.W_OK):
        return "/dev/net/tun cannot be opened"
    name = _name("try")
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    if made.returncode:
        return f"no network namespace can be made: {made.stderr.strip()}"
    subprocess.run(["ip", "netns", "delete", name], check=True)
    return None


@dataclass
class Counts:
    """Packets of one direction."""

    carried: int = 0
    lost: int = 0
    overflowed: int = 0


@dataclass
class Hosts:
    """Two hosts; put `near` or `far` in front of a command to run it there."""

    near: list[str]
    far: list[str]
    up: Counts = field(default_factory=Counts)
    down: Counts = field(default_factory=Counts)


@contextmanager
def two_hosts(trace: Trace, conditions: Conditions) -> Iterator[Hosts]:
    """Make both hosts, and a link between them that carries packets as *trace* and *conditions* say.

    A packet that finds the queue full is dropped, as is the share that gets lost.
    """
    with ExitStack() as stack:
        names = [stack.enter_context(_namespace(_name(end))) for end in ("near", "far")]
        tuns = [stack.enter_context(_tun(name)) for name in names]
        for name, own, peer in zip(names, (NEAR_ADDRESS, FAR_ADDRESS), (FAR_ADDRESS, NEAR_ADDRESS), strict=True):
            _ip(name, "address", "add", own, "peer", peer, "dev", "tun0")
            _ip(name, "link", "set", "tun0", "mtu", str(_MTU), "up")
            _ip(name, "link", "set", "lo", "up")
        hosts = Hosts(*(["ip", "netns", "exec", name] for name in names))
        stop = threading.Event()
        thread = threading.Thread(target=_carry, args=(tuns, trace, conditions, hosts, stop), daemon=True)
        thread.start()
        try:
            yield hosts
        finally:
            stop.set()
            thread.join()


class _Direction:
    """Packets from one TUN device to the other."""

    def __init__(self, source: int, target: int, trace: Trace, conditions: Conditions, counts: Counts) -> None:
        self.source, self._target, self._trace, self._conditions = source, target, trace, conditions
        self._counts = counts
        self._random = random.Random(f"{conditions.seed} {source}")
        self._waiting: list[tuple[float, int]] = []  # when it has left the queue, size
        self._flying: list[tuple[float, int, bytes]] = []
        self._numbers = itertools.count()
        self._free_at, self._backlog = 0.0, 0

    def take(self, now: float) -> None:
        packet = os.read(self.source, _MTU + 100)
        while self._waiting and self._waiting[0][0] <= now:
            self._backlog -= heapq.heappop(self._waiting)[1]
        if self._backlog + len(packet) > self._conditions.queue_bytes and self._waiting:
            self._counts.overflowed += 1
            return
        self._free_at = self._trace.carried_by(max(now, self._free_at), 8 * len(packet))
        self._backlog += len(packet)
        heapq.heappush(self._waiting, (self._free_at, len(packet)))
        if self._random.random() < self._conditions.loss:
            self._counts.lost += 1
            return
        arrival = self._free_at + self._conditions.delay_s
        heapq.heappush(self._flying, (arrival, next(self._numbers), packet))

    def deliver(self, now: float) -> float | None:
        """Hand over what has arrived; return when the next packet will."""
        while self._flying and self._flying[0][0] <= now:
            os.write(self._target, heapq.heappop(self._flying)[2])
            self._counts.carried += 1
        return self._flying[0][0] if self._flying else None


def _carry(tuns: list[int], trace: Trace, conditions: Conditions, hosts: Hosts, stop: threading.Event) -> None:
    near, far = tuns
    ways = [
        _Direction(near, far, trace, conditions, hosts.up),
        _Direction(far, near, trace, conditions, hosts.down),
    ]
    began = time.monotonic()
    with selectors.DefaultSelector() as selector:
        for way in ways:
            selector.register(way.source, selectors.EVENT_READ, way)
        while not stop.is_set():
            instants = [at for way in ways if (at := way.deliver(time.monotonic() - began)) is not None]
            wait_s = min([0.1, *(max(0.0, at - (time.monotonic() - began)) for at in instants)])
            for key, _ in selector.select(wait_s):
                key.data.take(time.monotonic() - began)


def _name(end: str) -> str:
    return f"cutoff-{end}-{os.getpid()}"


@contextmanager
def _namespace(name: str) -> Iterator[str]:
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        yield name
    finally:
        subprocess.run(["ip", "netns", "delete", name], check=True)


@contextmanager
def _tun(namespace: str) -> Iterator[int]:
    """Open a TUN device `tun0` of *namespace*; this process stays where it is."""
    libc = ctypes.CDLL(None, use_errno=True)
    opened: list[int] = []

    def open_there() -> None:
        # In a thread of its own, which ends in the namespace that it went to.
        place = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
        try:
            if libc.setns(place, _CLONE_NEWNET) == 0:
                opened.append(os.open("/dev/net/tun", os.O_RDWR))
                fcntl.ioctl(opened[0], _TUNSETIFF, struct.pack("16sH22x", b"tun0", _IFF_TUN | _IFF_NO_PI))
        finally:
            os.close(place)

    thread = threading.Thread(target=open_there)
    thread.start()
    thread.join()
    try:
        yield opened[0]
    finally:
        os.close(opened[0])


def _ip(namespace: str, *words: str) -> None:
    subprocess.run(["ip", "-n", namespace, *words], check=True)
