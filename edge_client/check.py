"""`cutoff edge --check`: what a start would need, without starting anything or talking to anybody."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from edge_client.settings import EdgeSettings
from edge_client.sources import csi_pipeline, import_cv2, source_name
from edge_client.transport import ingest_url, trusted
from runtime.codec import Codec
from runtime.errors import ConfigurationError


def check(settings: EdgeSettings) -> str:
    """Return what the settings mean, in lines; secrets are not in them.

    Raises:
        CutoffError: OpenCV, the bundle, a file or a folder is not as the settings need it.
    """
    cv2 = import_cv2()
    source, spool = settings.source, settings.spool
    codec = settings.codec
    with Codec.open(
        codec.bundle, codec.engine, codec.threads or None, coder=codec.coder, precision=codec.precision
    ) as opened:
        opened.encode(np.zeros((64, 64, 3), np.uint8))  # opens what a start would open
        bundle = f"{opened.bundle.name} {opened.bundle.exact_id.hex()}"
    if source.path is not None and not source.path.exists():
        raise ConfigurationError(f"source.path: {source.path} does not exist")
    if source.kind == "csi" and "GStreamer:                   NO" in cv2.getBuildInformation():
        raise ConfigurationError("source.kind csi needs an OpenCV with GStreamer, such as JetPack's; see docs/edge.md")
    trusted(settings.server.ca_file)
    _writable("state", settings.state)
    if spool.file is not None:
        _writable("spool.file", spool.file.parent)
    absent = source.kind == "v4l2" and not os.path.exists(source.device)
    lines = [
        f"camera    {settings.camera}",
        f"server    {ingest_url(settings.server.url)}",
        f"source    {source_name(source)}{' (not there now)' * absent}, at most {source.fps:g} pictures per second",
        f"bundle    {bundle}",
        f"deadline  {settings.sending.deadline_s:g} s",
        f"spool     {spool.file or 'none'}" + (f", keeps {spool.keep}" if spool.file else ""),
        f"OpenCV    {cv2.__version__}",
    ]
    if source.kind == "csi":
        lines.append(f"pipeline  {csi_pipeline(source)}")
    return "\n".join([*lines, "ok"])


def _writable(key: str, folder: Path) -> None:
    """Refuse a folder that cannot be written to, or made."""
    existing = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise ConfigurationError(f"{key}: {folder} cannot be written to")
