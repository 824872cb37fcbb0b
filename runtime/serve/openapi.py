"""The HTTP part as OpenAPI 3.1 says it; a test compares its paths with the routes. The page's own files are not in it.

The WebSocket of the cameras is in FORMAT.md, part two.
"""

from __future__ import annotations

from importlib import metadata
from typing import Any

Json = dict[str, Any]


def document() -> Json:
    """Return the description."""
    try:
        version = metadata.version("cutoff")
    except metadata.PackageNotFoundError:
        version = "of a checkout that is not installed"
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "cutoff server",
            "version": version,
            "summary": "Decodes prefixes of streams by a deadline, and shows what was decoded.",
        },
        "paths": {
            "/v1/decode": {"post": _decode()},
            "/v1/login": {"post": _login()},
            "/v1/cameras": {"get": _get("Every camera, its state and its last frames.", "viewer")},
            "/v1/cameras/{camera}/frames": {
                "get": _get(
                    "Frames of a camera, newest first.",
                    "viewer",
                    [
                        _path("camera"),
                        _query("limit", "integer", "How many at most."),
                        _query("before", "integer", "Only frames whose sequence is below this."),
                    ],
                )
            },
            "/v1/frames/{camera}/{sequence}": {
                "get": _get(
                    "What is known of a frame, and what a prefix of its stream holds.", "viewer", _frame(_bytes())
                )
            },
            "/v1/frames/{camera}/{sequence}/picture": {
                "get": _get(
                    "The picture of a prefix.",
                    "viewer",
                    _frame(
                        _bytes(),
                        _query("width", "integer", "Of the picture, made smaller."),
                        _query("format", "string", "Of the file; else the header Accept decides."),
                    ),
                    ("image/jpeg", "image/png", "image/webp"),
                )
            },
            "/v1/frames/{camera}/{sequence}/stream": {
                "get": _get("What is kept of a frame's stream.", "viewer", _frame(), ("application/octet-stream",))
            },
            "/healthz": {"get": _get("200 as long as the process lives.", None, content=("text/plain",))},
            "/readyz": {"get": _get("200 while frames are taken, 503 before and after.", None)},
            "/metrics": {"get": _get("Figures for Prometheus.", "viewer", content=("text/plain",))},
            "/openapi.json": {"get": _get("This description.", None)},
        },
        "components": {
            "securitySchemes": {
                "camera": {"type": "http", "scheme": "bearer", "description": "The token of any camera."},
                "viewer": {"type": "http", "scheme": "bearer", "description": "A viewer's token."},
                "cookie": {"type": "apiKey", "in": "cookie", "name": "cutoff_viewer"},
            },
            "schemas": {"Answer": _answer(), "Error": _object({"error": {"type": "string"}})},
        },
    }


def _decode() -> Json:
    deadline = "Milliseconds from the request's head until the answer is due; without it the whole body is awaited."
    error = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    answer = {"application/json": {"schema": {"$ref": "#/components/schemas/Answer"}}}
    wait = {"Retry-After": {"schema": {"type": "integer"}, "description": "Seconds."}}
    return {
        "summary": "Decode one stream, sent whole or in chunks, from what arrives by the deadline.",
        "security": [{"camera": []}],
        "parameters": [_query("deadline_ms", "number", deadline)],
        "requestBody": {
            "required": True,
            "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
        },
        "responses": {
            "200": {
                "description": "A picture: as PNG if Accept asks for it, else what there is to say of it.",
                "content": {**answer, "image/png": {}},
            },
            "400": {"description": "The deadline is no such number.", "content": error},
            "401": {"description": "No token, or none that is known.", "content": error},
            "408": {"description": "The upload took too long.", "content": error},
            "413": {"description": "The stream is longer than is accepted.", "content": error},
            "422": {"description": "Too little came for a picture, or it is no stream.", "content": answer},
            "429": {"description": "Too much at a time.", "headers": wait, "content": error},
            "503": {"description": "No answer was made.", "headers": wait, "content": error},
            "504": {"description": "Nothing was finished by the deadline.", "content": answer},
        },
    }


def _login() -> Json:
    return {
        "summary": "Exchange a viewer's token for a cookie.",
        "security": [],
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": _object({"token": {"type": "string"}})}},
        },
        "responses": {
            "204": {"description": "The cookie is set."},
            "400": {"description": "The body is something else, or the request comes from another site's page."},
            "401": {"description": "The token is not known."},
        },
    }


def _get(
    summary: str,
    who: str | None,
    parameters: list[Json] | None = None,
    content: tuple[str, ...] = ("application/json",),
) -> Json:
    responses: Json = {"200": {"description": summary, "content": {kind: {} for kind in content}}}
    if who is not None:
        responses["401"] = {"description": "A viewer's token is needed."}
    if parameters:
        responses["400"] = {"description": "A parameter is out of range."}
        responses["404"] = {"description": "Nothing of that name is kept."}
    security: list[Json] = [] if who is None else [{who: []}, {"cookie": []}]
    return {"summary": summary, "security": security, "parameters": parameters or [], "responses": responses}


def _frame(*others: Json) -> list[Json]:
    return [_path("camera"), _path("sequence", "integer"), *others]


def _bytes() -> Json:
    return _query("bytes", "integer", "Length of the prefix; all that is kept if it is missing.")


def _path(name: str, kind: str = "string") -> Json:
    return {"name": name, "in": "path", "required": True, "schema": {"type": kind}}


def _query(name: str, kind: str, description: str) -> Json:
    return {"name": name, "in": "query", "description": description, "schema": {"type": kind}}


def _object(properties: Json) -> Json:
    return {"type": "object", "properties": properties, "required": list(properties)}


def _answer() -> Json:
    integer, number, text = {"type": "integer"}, {"type": "number"}, {"type": "string"}

    def or_null(kind: Json) -> Json:
        return {"type": [kind["type"], "null"]}

    return _object(
        {
            "status": {"enum": ["ok", "preview", "missed", "damaged", "unusable"]},
            "received": integer,
            "bytes": integer,
            "bytes_verified": integer,
            "bytes_total": or_null(integer),
            "width": or_null(integer),
            "height": or_null(integer),
            "steps": number,
            "steps_total": integer,
            "complete": {"type": "boolean"},
            "skipped": {"type": "array", "items": text},
            "margin_ms": or_null(number),
            "label": or_null(text),
            "confidence": or_null(number),
            "message": or_null(text),
        }
    )
