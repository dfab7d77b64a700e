"""The OpenAPI description of ``jobs_app``."""

from __future__ import annotations

from typing import Any

from videorouter._version import __version__

_LISTS = ("image_urls", "video_urls", "audio_urls")
_TYPES: dict[str, Any] = {
    **{name: {"type": "array", "items": {"type": "string", "format": "uri"}} for name in _LISTS},
    "generate_audio": {"type": "boolean"},
    "seed": {"type": "integer"},
    "duration": {"type": ["string", "integer"]},
}
_STATES = ["not_sent", "sending", "accepted", "done", "refused", "failed", "in_doubt", "lost", "cancelled"]
_TIME = {"type": ["number", "null"], "description": "Unix time in seconds"}
_JOB = {
    "type": "object",
    "required": ["id", "state", "over", "event", "videos", "self", "events"],
    "properties": {
        "id": {"type": "string"},
        "state": {"type": "string", "enum": _STATES},
        "over": {
            "type": "boolean",
            "description": "Whether nothing more happens to it, the saving of its files included",
        },
        "prompt": {"type": ["string", "null"]},
        "model": {"type": ["string", "null"]},
        "created": _TIME,
        "sent": _TIME,
        "finished": _TIME,
        "event": {"type": "integer", "description": "The number of its last event"},
        "failure": {
            "type": ["object", "null"],
            "properties": {"type": {"type": "string"}, "message": {"type": "string"}},
        },
        "videos": {"type": "array", "items": {"type": "string", "format": "uri-reference"}},
        "self": {"type": "string", "format": "uri-reference"},
        "events": {"type": "string", "format": "uri-reference"},
    },
}
_PROBLEM = {
    "type": "object",
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
    },
}


def describe_api(root: str, models: tuple[str, ...], fields: list[str]) -> dict[str, Any]:
    """Describe the application for the models and fields that it takes."""
    wanted: dict[str, Any] = {name: _TYPES.get(name, {"type": "string"}) for name in fields}
    wanted["model"] = {"type": "string", "enum": list(models), "default": models[0]}
    one = [{"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}]
    after = [{"name": "Last-Event-ID", "in": "header", "schema": {"type": "integer", "minimum": 0}}]
    job = _answer("The job", "application/json", {"$ref": "#/components/schemas/Job"})
    stream = _answer("Events, one for each change", "text/event-stream", {"type": "string"})
    listed = {
        "type": "object",
        "properties": {
            "jobs": {"type": "array", "items": {"$ref": "#/components/schemas/Job"}},
            "event": {"type": "integer", "description": "The number of the last event: follow /events from there"},
            "models": {"type": "array", "items": {"type": "string"}},
        },
    }
    key = {
        "name": "Idempotency-Key",
        "in": "header",
        "description": "The same key gives the same job and buys nothing twice",
        "schema": {"type": "string", "maxLength": 255},
    }
    queries = [_query("state", "string"), _query("before", "string"), _query("limit", "integer")]
    body = {"type": "object", "required": ["prompt"], "additionalProperties": False, "properties": wanted}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Video jobs", "version": __version__},
        "servers": [{"url": root or "/"}],
        "paths": {
            "/": {
                "get": _verb(
                    "List jobs, the newest first", {"200": _answer("Jobs", "application/json", listed)}, queries
                ),
                "post": _verb(
                    "Put a job",
                    {"202": job, **_problems("400", "401", "413", "415", "422", "503")},
                    [key],
                    {"required": True, "content": {"application/json": {"schema": body}}},
                ),
            },
            "/events": {"get": _verb("What happens to all jobs", {"200": stream}, after)},
            "/{id}": {
                "get": _verb("One job", {"200": job, **_problems("404")}, one),
                "delete": _verb("Take back what is not sent", {"200": job, **_problems("404", "409")}, one),
            },
            "/{id}/events": {
                "get": _verb(
                    "What happens to one job",
                    {"200": stream, "204": {"description": "Nothing more happens to it"}, **_problems("404")},
                    [*one, *after],
                )
            },
            "/{id}/video": {
                "get": _verb(
                    "Its saved file, whole or by ranges",
                    {
                        "200": _answer("The file", "video/mp4", {"type": "string", "format": "binary"}),
                        "206": _answer("A part of it", "video/mp4", {"type": "string", "format": "binary"}),
                        "307": {"description": "Where files are not saved: the gateway's URL"},
                        **_problems("404", "410"),
                    },
                    [*one, _query("number", "integer")],
                )
            },
        },
        "components": {"schemas": {"Job": _JOB, "Problem": _PROBLEM}},
    }


def _verb(summary: str, responses: Any, parameters: list[Any], body: Any = None) -> dict[str, Any]:
    verb = {"summary": summary, "parameters": parameters, "responses": responses}
    return verb if body is None else {**verb, "requestBody": body}


def _answer(description: str, kind: str, schema: Any) -> dict[str, Any]:
    return {"description": description, "content": {kind: {"schema": schema}}}


def _problems(*statuses: str) -> dict[str, Any]:
    schema = {"$ref": "#/components/schemas/Problem"}
    return {status: _answer("A problem", "application/problem+json", schema) for status in statuses}


def _query(name: str, kind: str) -> dict[str, Any]:
    return {"name": name, "in": "query", "schema": {"type": kind}}
