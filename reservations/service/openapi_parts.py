"""The bricks of the API's description."""

from __future__ import annotations

from typing import Any

from ..numeric import LARGEST
from ..text import seen_pattern
from . import bodies

Schema = dict[str, Any]
TIME: Schema = {"type": ["string", "null"], "format": "date-time", "description": "UTC; null: not (yet) known"}
TEXT: Schema = {"type": "string"}
COUNT: Schema = {"type": "integer", "minimum": 0, "maximum": LARGEST}
NUMBER: Schema = {"type": "number", "minimum": 0}
SECONDS: Schema = {"type": ["integer", "null"]}
FLAG: Schema = {"type": "boolean"}


def line(*, empty: bool = False, null: bool = False, description: str = "") -> Schema:
    return {
        "type": ["string", "null"] if null else "string",
        "minLength": 0 if empty else 1,
        "maxLength": bodies.MAX_NAME,
        "pattern": seen_pattern(),
        "description": description,
    }


def record(properties: Schema, required: tuple[str, ...] | None = None, **more: Any) -> Schema:
    needed = list(properties) if required is None else list(required)
    return {"type": "object", "properties": properties, "required": needed, "additionalProperties": False, **more}


def ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def query(name: str, schema: Schema, description: str) -> Schema:
    return {"name": name, "in": "query", "required": False, "schema": schema, "description": description}


def path(name: str, schema: Schema) -> Schema:
    return {"name": name, "in": "path", "required": True, "schema": schema}


def body(schema: Schema, required: bool = True) -> Schema:
    return {"required": required, "content": {"application/json": {"schema": schema}}}


def operation(summary: str, answer: str | None, *errors: int, **more: Any) -> Schema:
    """One method: its answer is the named schema, and every error the one error body."""
    content: Schema = {"application/json": {"schema": ref(answer) if answer else {"type": "object"}}}
    responses: Schema = {"200": {"description": "done", "content": content}}
    if more.pop("creates", False):
        responses["201"] = {"description": "made", "content": content}
    codes = sorted({400, 401, 403, 503, *errors} if more.pop("login", True) else {400, *errors})
    for code in codes:
        responses[str(code)] = {"$ref": f"#/components/responses/E{code}"}
    return {"summary": summary, "responses": responses, **more}
