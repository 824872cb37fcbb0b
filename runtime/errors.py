"""The project's errors, re-exported for users of the codec; `engines.errors` draws the tree."""

from __future__ import annotations

from engines.errors import (
    BundleError,
    Cancelled,
    ConfigurationError,
    CutoffError,
    DataError,
    EngineError,
    Incomplete,
    LimitExceeded,
    MissingExtra,
    ModelMismatch,
    OutOfTime,
    OutputError,
    PictureError,
    StreamError,
    UsageError,
)

__all__ = [
    "BundleError",
    "Cancelled",
    "ConfigurationError",
    "CutoffError",
    "DataError",
    "EngineError",
    "Incomplete",
    "LimitExceeded",
    "MissingExtra",
    "ModelMismatch",
    "OutOfTime",
    "OutputError",
    "PictureError",
    "StreamError",
    "UsageError",
]
