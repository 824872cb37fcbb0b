"""Log records as JSON lines on stderr: time, level, logger, message, and whatever the caller gave as `extra`."""

from __future__ import annotations

import json
import logging
import sys
from datetime import datetime, timezone
from typing import TextIO

_KNOWN = {*vars(logging.makeLogRecord({})), "message", "asctime", "taskName"}


class JsonLines(logging.Formatter):
    """One JSON object per record."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record's line."""
        content: dict[str, object] = {
            "at": datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        content.update((key, value) for key, value in vars(record).items() if key not in _KNOWN)
        if record.exc_info:
            content["trace"] = self.formatException(record.exc_info)
        return json.dumps(content, default=str, ensure_ascii=False)


def set_up_log(level: str, stream: TextIO | None = None) -> None:
    """Send all records of *level* and above to *stream*, by default stderr."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for library in ("websockets", "PIL", "asyncio"):  # the first would log the hello, token included, at debug
        logging.getLogger(library).setLevel(logging.WARNING)
