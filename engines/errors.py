"""Errors of the whole project: one base class, and below it the questions a caller has.

CutoffError
|-- DataError              the file is bad                                         exit status 1
|   |-- PictureError         not a picture that can be coded
|   |-- StreamError          not a stream, of an unknown version, or its header or head segment is damaged
|   |-- ModelMismatch        a stream of another bundle
|   `-- BundleError          a bundle whose files do not fit its manifest
|-- Incomplete             the file is not all there yet                           exit status 1
|-- LimitExceeded          a claim, or work, above what the caller allows          exit status 1
|-- Cancelled              work that the caller called off                         exit status 1
|   `-- OutOfTime              a network's run, ended since there was no time for it
|-- EngineError            a graph cannot be opened or run here                    exit status 1
|   `-- NotPrepared          a size for which no plan was built, and none may be built now
|-- OutputError            a result cannot be written                              exit status 1
`-- UsageError             the call is wrong                                       exit status 2
    |-- ConfigurationError   a settings file with an unknown or wrong key
    `-- MissingExtra         a feature whose optional package is not installed
"""

from __future__ import annotations


class CutoffError(Exception):
    """Base of every error that cutoff raises on purpose; the message is one line that names the fault."""

    exit_status = 1


class DataError(CutoffError):
    """The data are bad; no retry will help."""


class PictureError(DataError):
    """A picture that cannot be coded: not a picture, truncated, or of a kind that is not supported."""


class StreamError(DataError):
    """Bytes that are no stream, have an unknown version, or are damaged in header or head segment."""


class ModelMismatch(DataError):
    """A stream whose exact parts are not those of the bundle at hand."""


class BundleError(DataError):
    """A bundle that is missing, incomplete, or does not match its manifest."""


class Incomplete(CutoffError):
    """A prefix that ends before anything can be decoded; more bytes would help."""


class LimitExceeded(CutoffError):
    """A size claim above the caller's limits, for which nothing was allocated; or work that took too long."""


class Cancelled(CutoffError):
    """Work that its caller called off; what it held is free."""


class OutOfTime(Cancelled):
    """A run of a network that was ended because it took longer than there was time for."""


class EngineError(CutoffError):
    """A graph that cannot be opened, run, or proved on this machine."""


class NotPrepared(EngineError):
    """A size that an engine has no plan for; building one takes minutes and was not allowed."""


class OutputError(CutoffError):
    """A result that cannot be written; nothing was left behind."""


class UsageError(CutoffError):
    """The call itself is wrong."""

    exit_status = 2


class ConfigurationError(UsageError):
    """A settings file with an unknown key or a wrong value."""


class MissingExtra(UsageError):
    """A feature whose optional package is not installed; the message names the extra that brings it."""
