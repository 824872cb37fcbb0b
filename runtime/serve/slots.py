"""Places for servers on one machine: each has a store of its own, which the next server in that place goes on with."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from runtime.errors import OutputError
from runtime.serve.locks import hold
from runtime.serve.settings import ServerSettings

_MOST = 1024


class Slot:
    """A place in *folder*, held as long as this process lives.

    Attributes:
        number: from 0, the lowest that is free.
        folder: for the store.
    """

    def __init__(self, folder: Path) -> None:
        """Take the first place that nobody holds.

        Raises:
            OutputError: the folder cannot be used, or all places are taken.
        """
        for number in range(_MOST):
            self.number, self.folder = number, folder / f"slot-{number}"
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                lock = hold(self.folder / "lock")
            except OSError as fault:
                raise OutputError(f"{self.folder}: cannot be used: {fault}") from fault
            if lock is not None:
                self._lock = lock
                return
        raise OutputError(f"{folder}: all {_MOST} places are taken")

    def settings(self, settings: ServerSettings) -> ServerSettings:
        """Return *settings* with the store in this place."""
        return replace(settings, store=replace(settings.store, folder=self.folder))

    def release(self) -> None:
        """Leave the place to others."""
        os.close(self._lock)
