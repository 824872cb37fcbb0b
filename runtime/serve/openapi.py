"""The HTTP part as OpenAPI 3.1 says it; tests compare paths with the routes, and schemas with answers.

The page's own files are not in it. The WebSocket of the cameras is in FORMAT.md, part two.
"""

from __future__ import annotations

from importlib import metadata
from typing import Any

from runtime.protocol import MAX_NAME, MAX_SEQUENCE
from runtime.serve.cuts import FORMATS
from runtime.serve.views import MOST_FRAMES, WIDEST

Json = dict[str, Any]

_INTEGER, _NUMBER, _TEXT = {"type": "integer"}, {"type": "number"}, {"type": "string"}
_TRUTH = {"type": "boolean"}
_STATUS = ["ok", "preview", "missed", "damaged", "unusable"]
_WAIT = {"Retry-After": {"schema": {"type": "integer"}, "description": "Seconds."}}


def document(longest_s: float = 60.0, *, open_to_viewers: bool = False) -> Json:
    """Return the description of a server.

    Args:
        longest_s: longest deadline that it accepts.
        open_to_viewers: it shows everything to everybody who can connect.
    """
    try:
        version = metadata.version("cutoff")
    except metadata.PackageNotFoundError:
        version = "of a checkout that is not installed"
    viewer: list[Json] = [{"viewer": []}, {"cookie": []}, *([{}] if open_to_viewers else [])]
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "cutoff server",
            "version": version,
            "summary": "Decodes prefixes of streams by a deadline, and shows what was decoded.",
        },
        "paths": {
            "/v1/decode": {"post": _decode(longest_s)},
            "/v1/login": {"post": _login()},
            "/v1/cameras": {
                "get": _get("Every camera, its state and its last frames.", viewer, {200: _ref("Cameras")})
            },
            "/v1/cameras/{camera}/frames": {
                "get": _get(
                    "Frames of a camera, newest first; none of one that is not known.",
                    viewer,
                    {200: _ref("Frames"), 400: "A parameter is out of range."},
                    [
                        _camera(),
                        _query("limit", _between(1, MOST_FRAMES), "How many at most; 20 if it is missing."),
                        _query("before", _between(0, MAX_SEQUENCE + 1), "Only frames whose sequence is below this."),
                    ],
                )
            },
            "/v1/frames/{camera}/{sequence}": {
                "get": _get(
                    "What is known of a frame, and what a prefix of its stream holds.",
                    viewer,
                    {200: _ref("Cut"), **_no_cut()},
                    _frame(_bytes()),
                )
            },
            "/v1/frames/{camera}/{sequence}/picture": {
                "get": _get(
                    "The picture of a prefix.",
                    viewer,
                    {
                        200: {media: {} for media in FORMATS.values()},
                        304: "It is the one that If-None-Match names.",
                        409: "The prefix holds no picture yet.",
                        **_no_cut(),
                    },
                    _frame(
                        _bytes(),
                        _query("width", _between(1, WIDEST), "Of the picture, made smaller."),
                        _query("format", {"enum": list(FORMATS)}, "Of the file; else the header Accept decides."),
                    ),
                )
            },
            "/v1/frames/{camera}/{sequence}/stream": {
                "get": _get(
                    "What is kept of a frame's stream.",
                    viewer,
                    {200: {"application/octet-stream": {}}, 404: "This frame is not kept."},
                    _frame(),
                )
            },
            "/healthz": {
                "get": _get(
                    "200 as long as the process and its threads live.",
                    [],
                    {200: {"text/plain": {}}, 503: {"text/plain": {}}},
                )
            },
            "/readyz": {
                "get": _get(
                    "200 while frames are taken, 503 before and after.",
                    [],
                    {200: _object({"ready": _TRUTH}), 503: "No frames are taken."},
                )
            },
            "/metrics": {"get": _get("Figures for Prometheus.", viewer, {200: {"text/plain": {}}})},
            "/openapi.json": {"get": _get("This description.", [], {200: {"type": "object"}})},
        },
        "components": {
            "securitySchemes": {
                "camera": {"type": "http", "scheme": "bearer", "description": "The token of any camera."},
                "viewer": {"type": "http", "scheme": "bearer", "description": "A viewer's token."},
                "cookie": {"type": "apiKey", "in": "cookie", "name": "cutoff_viewer"},
            },
            "schemas": _schemas(),
        },
    }


def _decode(longest_s: float) -> Json:
    deadline = "Milliseconds from the request's head until the answer is due; without it the whole body is awaited."
    answer = {"application/json": {"schema": _ref("Answer")}}
    milliseconds = {"type": "number", "exclusiveMinimum": 0, "maximum": 1000 * longest_s}
    return {
        "summary": "Decode one stream, sent whole or in chunks, from what arrives by the deadline.",
        "security": [{"camera": []}],
        "parameters": [_query("deadline_ms", milliseconds, deadline)],
        "requestBody": {
            "required": True,
            "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
        },
        "responses": {
            "200": {
                "description": "A picture: as PNG if Accept asks for it, else what there is to say of it.",
                "content": {**answer, "image/png": {}},
            },
            "400": _error("The deadline is no such number."),
            "401": _error("No token, or none that is known."),
            "408": _error("The upload took too long."),
            "413": _error("The stream is longer than is accepted."),
            "422": {"description": "Too little came for a picture, or it is no stream.", "content": answer},
            "429": _error("Too much at a time.", _WAIT),
            "503": _error("No answer was made, or no streams are taken.", _WAIT),
            "504": {"description": "Nothing was finished by the deadline.", "content": answer},
        },
    }


def _login() -> Json:
    return {
        "summary": "Exchange a viewer's token for a cookie.",
        "security": [],
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": _object({"token": _TEXT})}},
        },
        "responses": {
            "204": {"description": "The cookie is set."},
            "400": _error("The body is something else, or the request comes from another site's page."),
            "401": _error("The token is not known."),
            "408": _error("The body took too long."),
            "429": _error("Too many attempts have failed.", _WAIT),
        },
    }


def _get(summary: str, security: list[Json], answers: dict[int, Any], parameters: list[Json] | None = None) -> Json:
    """Return an operation.

    Args:
        answers: by status, what an error means, a schema of JSON, or content by media type.
    """
    responses: Json = {}
    for status, answer in sorted({**answers, **({401: "A viewer's token is needed."} if security else {})}.items()):
        if isinstance(answer, str):
            responses[str(status)] = _error(answer, _WAIT if status == 503 and security else None)
        else:
            by_media = any("/" in key and not key.startswith("$") for key in answer)
            content = answer if by_media else {"application/json": {"schema": answer}}
            responses[str(status)] = {"description": summary, "content": content}
    return {"summary": summary, "security": security, "parameters": parameters or [], "responses": responses}


def _no_cut() -> dict[int, str]:
    return {
        400: "A parameter is out of range.",
        404: "This frame is not kept.",
        422: "What is kept is no stream, or one of another bundle.",
        503: "Too much is asked for at a time.",
    }


def _error(description: str, headers: Json | None = None) -> Json:
    content = {"application/json": {"schema": _ref("Error")}}
    return {"description": description, "content": content, **({"headers": headers} if headers else {})}


def _frame(*others: Json) -> list[Json]:
    return [_camera(), _path("sequence", _between(0, MAX_SEQUENCE)), *others]


def _camera() -> Json:
    return _path("camera", {"type": "string", "pattern": f"^[A-Za-z0-9._-]{{1,{MAX_NAME}}}$"})


def _bytes() -> Json:
    return _query("bytes", _between(0, MAX_SEQUENCE), "Length of the prefix; all that is kept if it is missing.")


def _path(name: str, schema: Json) -> Json:
    return {"name": name, "in": "path", "required": True, "schema": schema}


def _query(name: str, schema: Json, description: str) -> Json:
    return {"name": name, "in": "query", "description": description, "schema": schema}


def _between(least: int, most: int) -> Json:
    return {"type": "integer", "minimum": least, "maximum": most}


def _object(properties: Json, optional: tuple[str, ...] = ()) -> Json:
    required = [name for name in properties if name not in optional]
    return {"type": "object", "properties": properties, "required": required}


def _ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def _or_null(kind: Json) -> Json:
    return {"type": [kind["type"], "null"]}


def _list_of(name: str) -> Json:
    return {"type": "array", "items": _ref(name)}


def _schemas() -> Json:
    label = {"label": _or_null(_TEXT), "confidence": _or_null(_NUMBER)}
    result = {"steps": _NUMBER, "steps_total": _INTEGER, "margin_ms": _or_null(_NUMBER), **label}
    times = {"captured": _NUMBER, "received": _NUMBER}
    return {
        "Error": _object({"error": _TEXT}),
        "Answer": _object(
            {
                "status": {"enum": _STATUS},
                "received": _INTEGER,
                "bytes": _INTEGER,
                "bytes_verified": _INTEGER,
                "bytes_total": _or_null(_INTEGER),
                "width": _or_null(_INTEGER),
                "height": _or_null(_INTEGER),
                "complete": _TRUTH,
                "skipped": {"type": "array", "items": _TEXT},
                "message": _or_null(_TEXT),
                **result,
            }
        ),
        "Frame": _object(
            {
                "camera": _TEXT,
                "sequence": _INTEGER,
                **times,
                "size": _INTEGER,
                "held": _INTEGER,
                "kept": _INTEGER,
                "status": {"enum": [*_STATUS, None]},
                "bytes": _INTEGER,
                **result,
            },
            optional=tuple(result),  # there once it is answered
        ),
        "Frames": _object({"frames": _list_of("Frame"), "before": _or_null(_INTEGER)}),
        "Cameras": _object(
            {
                "cameras": {
                    "type": "array",
                    "items": _object(
                        {
                            "type": {"const": "camera"},
                            "camera": _TEXT,
                            "connected": _TRUTH,
                            "since": _NUMBER,
                            "heard": _or_null(_NUMBER),
                            "record": _list_of("Frame"),
                        }
                    ),
                }
            }
        ),
        "Cut": _object(
            {
                "camera": _TEXT,
                "sequence": _INTEGER,
                "captured": _NUMBER,
                "held": _INTEGER,
                "earlier": _or_null(_INTEGER),
                "later": _or_null(_INTEGER),
                "bytes": _INTEGER,
                "decodable": _TRUTH,
                "first_bytes": _or_null(_INTEGER),
                "width": _or_null(_INTEGER),
                "height": _or_null(_INTEGER),
                "size": _INTEGER,
                "steps": _NUMBER,
                "steps_total": _INTEGER,
                "planes": _or_null(_NUMBER),
                "complete": _TRUTH,
                "damaged": _TRUTH,
                **label,
                "answer": {"anyOf": [_ref("Frame"), {"type": "null"}]},
            }
        ),
    }
