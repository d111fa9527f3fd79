"""The OpenAPI document, made from the table that the routes are made from and the types that check what comes in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from http import HTTPStatus
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from engine.web.answers import JSON, MESSAGES
from engine.web.operations import Operation
from engine.web.shapes import Error, Nothing

Json = dict[str, Any]

SCHEMAS = "#/components/schemas/{name}"
EVERYWHERE = frozenset({400, 408, 413, 415, 431, 500, 501, 503})
"""What the front and the edge of a request may say to anything."""
SECURITY_SCHEMES: Json = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
}
_RETRY_AFTER: Json = {
    "Retry-After": {
        "description": "Seconds until it is worth asking again.",
        "schema": {"type": "integer", "minimum": 1},
    }
}
_CHALLENGE: Json = {"WWW-Authenticate": {"required": True, "schema": {"type": "string"}}}
_HEADERS: dict[int, Json] = {401: _CHALLENGE, 429: _RETRY_AFTER, 503: _RETRY_AFTER}


def document_operation(operations: Sequence[Operation], version: str) -> Operation:
    """Serves the document of these operations and of itself. It is made once."""

    async def endpoint(_request: Request) -> Response:
        return Response(body, media_type=JSON)

    itself = Operation("GET", "/openapi.json", "document", "This document", endpoint, {JSON: dict[str, Any]})
    body = msgspec.json.encode(document([*operations, itself], version))
    return itself


def document(operations: Sequence[Operation], version: str) -> Json:
    """The document, as JSON values."""
    schemas = _Schemas(operations)
    paths: Json = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _described(operation, schemas)
    statuses = sorted(EVERYWHERE.union(*(operation.refusals for operation in operations)))
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Offhook",
            "version": version or "0",
            "description": "Conversations of voice agents: written turns, what was said, and people's control over it.",
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {
            "schemas": schemas.components,
            "responses": {str(status): _refusal(status, schemas) for status in statuses},
            "securitySchemes": SECURITY_SCHEMES,
        },
    }


class _Schemas:
    def __init__(self, operations: Sequence[Operation]) -> None:
        types = [kind for operation in operations for kind in (*operation.replies.values(), operation.inputs.body)]
        self._types = [*dict.fromkeys(kind for kind in types if kind is not Nothing), Error]
        schemas, self.components = _components(tuple(self._types))
        self._schemas: dict[Any, Json] = dict(zip(self._types, schemas, strict=True))

    def of(self, kind: Any) -> Json:
        return self._schemas[kind]


@cache
def _components(types: tuple[Any, ...]) -> tuple[tuple[Json, ...], Json]:
    """The schema of each type, and those that these refer to by name."""
    return msgspec.json.schema_components(types, ref_template=SCHEMAS)


def _described(operation: Operation, schemas: _Schemas) -> Json:
    inputs = operation.inputs
    content = {content_type: {"schema": schemas.of(kind)} for content_type, kind in operation.replies.items()}
    described: Json = {
        "operationId": operation.name,
        "summary": operation.summary,
        "tags": [operation.scope or "health"],
        "parameters": [
            *_parameters("path", inputs.path),
            *_parameters("query", inputs.query),
            *_parameters("header", inputs.headers),
        ],
        "responses": {str(operation.status): {"description": HTTPStatus(operation.status).phrase, "content": content}},
    }
    for status in sorted(EVERYWHERE | operation.refusals):
        described["responses"][str(status)] = {"$ref": f"#/components/responses/{status}"}
    if operation.description:
        described["description"] = operation.description
    if inputs.body is not Nothing:
        body = {"required": inputs.body_is_required, "content": {JSON: {"schema": schemas.of(inputs.body)}}}
        described["requestBody"] = body
    if operation.needs_key and operation.scope is not None:
        described["security"] = [{scheme: [operation.scope.value]} for scheme in SECURITY_SCHEMES]
    return described


def _parameters(where: str, kind: type[msgspec.Struct]) -> Iterator[Json]:
    if kind is Nothing:
        return
    described = _schema_of(kind)
    for name, schema in described["properties"].items():
        is_required = name in described.get("required", ())
        parameter: Json = {"name": name, "in": where, "required": is_required}
        if text := schema.get("description", ""):
            parameter["description"] = text
        yield {**parameter, "schema": {key: value for key, value in schema.items() if key != "description"}}


@cache
def _schema_of(kind: type[msgspec.Struct]) -> Json:
    _, components = msgspec.json.schema_components([kind])
    schema: Json = components[kind.__name__]
    return schema


def _refusal(status: int, schemas: _Schemas) -> Json:
    refusal: Json = {"description": MESSAGES[status], "content": {JSON: {"schema": schemas.of(Error)}}}
    if headers := _HEADERS.get(status):
        refusal["headers"] = headers
    return refusal
