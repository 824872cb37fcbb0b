"""A section of the page, and the part that all have: how it was measured."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from runtime.evaluate.report.html import code, definitions, heading, paragraph, table, warning
from runtime.evaluate.runs.folder import Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Section:
    """A section: its title, a short name for links, that of its run, its HTML, and its figures by name."""

    title: str
    anchor: str
    run: str
    html: str
    figures: Mapping[str, Figure]


def measured_by(run: Run[Any]) -> str:
    """Return how *run* was measured: what is missing, machine, software, codecs, inputs, commands."""
    about = run.about
    parts = []
    if run.left:
        parts.append(warning(f"This run is not finished: {run.left} of {len(about['units'])} units are missing."))
    if run.skipped:
        parts.append(warning(f"{len(run.skipped)} of {len(about['units'])} units were skipped: "
                             + "; ".join(run.skipped.values())))  # fmt: skip
    machine, software = about["machine"], about["software"]
    facts = {
        "machine": f"{machine['processor']}, {machine['cores']} cores, {machine['memory_gb']} GB, {machine['system']}",
        "software": ", ".join(f"{name} {version}" for name, version in software.items()),
        "settings": ", ".join(f"{name} {_plain(value)}" for name, value in about["settings"].items()),
        "pictures": f"{len(set(about['pictures'].values()))}, SHA-256 over all of theirs {_digest(about['pictures'])}",
        **{f"file: {name}": f"SHA-256 {digest}" for name, digest in about["files"].items()},
    }
    rows = [(name, ", ".join(f"{key} {value}" for key, value in identity.items() if key != "kind"))
            for name, identity in about["codecs"].items()]  # fmt: skip
    commands = [f"{one['command']}    # {one['started']}" for one in about["commands"]]
    parts += [
        heading("How this was measured"),
        definitions(facts),
        table(("codec", "identity"), rows, kind="words"),
        paragraph("Commands, in the order in which they were given:", "soft"),
        code(commands),
    ]
    return "".join(parts)


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _digest(hashes: Mapping[str, str]) -> str:
    text = "".join(f"{digest}  {name}\n" for name, digest in hashes.items())
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:16]
