"""What the OpenAPI document says of each route: parameters, bodies, answers."""

from typing import Any

ABOUT = (
    "Image classification over the REST API of TensorFlow Serving, and with image files as they are. "
    'Every error is {"error": a sentence}.'
)
_JSON, _PNG, _HTML = "application/json", "image/png", "text/html"
_FILE = {"schema": {"type": "string", "format": "binary"}}
_REFUSALS = {
    400: "The request is not what the route takes; the sentence says why.",
    401: "The API key is missing or wrong.",
    404: "There is no such model or version.",
    406: "None of the accepted media types is offered.",
    408: "The body did not arrive in time.",
    413: "The body is too large.",
    415: "The body is of another type.",
    500: "The network failed.",
    503: "The queue is full, or the server is stopping; Retry-After says when to come again.",
    504: "The answer was not ready in time.",
}
_SUMMARIES = {
    "predict": "Ask by TensorFlow Serving's Predict API.",
    "classify": "Labels with probabilities for an image file.",
    "explain": "Where an image file speaks for a class: a heat map, as numbers or laid over the image.",
}
_PREDICTIONS = {
    "type": "array",
    "items": {
        "type": "object",
        "required": ["label", "probability"],
        "properties": {"label": {"type": "string"}, "probability": {"type": "number", "minimum": 0, "maximum": 1}},
    },
}
_HEATMAP = {"type": "array", "items": {"type": "array", "items": {"type": "number", "minimum": 0}}}
_CLASSIFIED = {
    "type": "object",
    "required": ["model", "version", "predictions"],
    "properties": {"model": {"type": "string"}, "version": {"type": "string"}, "predictions": _PREDICTIONS},
}
_EXPLAINED = {
    "type": "object",
    "required": [*_CLASSIFIED["required"], "explained", "heatmap"],
    "properties": {**_CLASSIFIED["properties"], "explained": _PREDICTIONS["items"], "heatmap": _HEATMAP},
}
_PREDICTED = {
    "type": "object",
    "properties": {"predictions": {"type": "array"}, "outputs": {"type": "object"}},
    "minProperties": 1,
}
_ASKED = {
    "type": "object",
    "properties": {
        "signature_name": {
            "type": "string",
            "description": "serving_default, serve_uint8, serve_bytes, explain_bytes or explain_class_bytes",
        },
        "instances": {"type": "array", "description": "an entry for each image"},
        "inputs": {"description": "a list, or an object with a list for each input"},
    },
}
_STATUS = {
    "type": "object",
    "required": ["model_version_status"],
    "properties": {
        "model_version_status": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["version", "state", "status"],
                "properties": {
                    "version": {"type": "string"},
                    "state": {"enum": ["START", "LOADING", "AVAILABLE", "UNLOADING", "END"]},
                    "status": {"type": "object"},
                },
            },
        }
    },
}
_TOP = {
    "name": "top",
    "in": "query",
    "description": "how many labels",
    "schema": {"type": "integer", "minimum": 1, "maximum": 1000, "default": 5},
}
_TARGET = {
    "name": "target",
    "in": "query",
    "description": "the class to explain, by its label or its number; without it, the most probable one",
    "schema": {"type": "string"},
}


def verb(name: str, has_version: bool) -> dict[str, Any]:
    """Returns the text of a route that asks a network."""
    answers = {"predict": _PREDICTED, "classify": _CLASSIFIED, "explain": _EXPLAINED}
    content: dict[str, Any] = {_JSON: {"schema": answers[name]}}
    if name == "explain":
        content[_PNG] = _FILE
    if name == "predict":
        body = {_JSON: {"schema": _ASKED}}
    else:
        form = {"type": "object", "required": ["image"], "properties": {"image": _FILE["schema"]}}
        body = {"application/octet-stream": _FILE, "multipart/form-data": {"schema": form}}
    refusals = (400, 401, 404, *((406,) if name == "explain" else ()), 408, 413, 415, 500, 503, 504)
    return {
        "operationId": f"{name}{'_version' if has_version else ''}",
        "summary": _SUMMARIES[name],
        "parameters": [
            *_path(has_version),
            *({"predict": (), "classify": (_TOP,), "explain": (_TOP, _TARGET)}[name]),
        ],
        "requestBody": {"required": True, "content": body},
        "responses": _responses("The answer.", content, refusals),
    }


def status(has_version: bool) -> dict[str, Any]:
    """Returns the text of a route that tells the state of a model's versions."""
    return {
        "operationId": f"status{'_version' if has_version else ''}",
        "summary": "State of a model's versions, as TensorFlow Serving tells it.",
        "parameters": _path(has_version),
        "responses": _responses("The versions, newest first.", {_JSON: {"schema": _STATUS}}, (401, 404)),
    }


def metadata(has_version: bool) -> dict[str, Any]:
    """Returns the text of a route that tells a model's signatures."""
    return {
        "operationId": f"metadata{'_version' if has_version else ''}",
        "summary": "Signatures with their inputs and outputs, as TensorFlow Serving tells them.",
        "parameters": _path(has_version),
        "responses": _responses("The signatures.", {_JSON: {"schema": {"type": "object"}}}, (401, 404)),
    }


def health(summary: str, *, may_be_unready: bool = False) -> dict[str, Any]:
    """Returns the text of a route that tells whether the server is well."""
    refusals = (503,) if may_be_unready else ()
    return {"summary": summary, "responses": _responses("It is.", {_JSON: {"schema": {"type": "object"}}}, refusals)}


def page(summary: str) -> dict[str, Any]:
    """Returns the text of a page for people."""
    return {"summary": summary, "responses": _responses("The page.", {_HTML: {"schema": {"type": "string"}}}, ())}


def numbers() -> dict[str, Any]:
    """Returns the text of the route that Prometheus asks."""
    content = {"text/plain": {"schema": {"type": "string"}}}
    summary = "What the server counts, in Prometheus' text format."
    return {"summary": summary, "responses": _responses("The numbers.", content, (401,))}


def completed(text: dict[str, Any], *, has_keys: bool) -> dict[str, Any]:
    """Returns the document without what FastAPI takes for granted, and with the keys where there are any.

    Args:
        text: What FastAPI wrote.
        has_keys: Whether the server needs an API key.
    """
    for path in text["paths"].values():
        for operation in path.values():
            operation["responses"].pop("422", None)
            if not has_keys:
                operation["responses"].pop("401", None)
            elif "401" in operation["responses"]:
                operation["security"] = [{"bearer": []}, {"key": []}]
    if has_keys:
        text.setdefault("components", {})["securitySchemes"] = {
            "bearer": {"type": "http", "scheme": "bearer"},
            "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
        }
    return text


def _path(has_version: bool) -> list[dict[str, Any]]:
    name = {"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}
    number = {"name": "version", "in": "path", "required": True, "schema": {"type": "integer", "minimum": 1}}
    return [name, number] if has_version else [name]


def _responses(good: str, content: dict[str, Any], refusals: tuple[int, ...]) -> dict[str, Any]:
    error = {"type": "object", "required": ["error"], "properties": {"error": {"type": "string"}}}
    found: dict[str, Any] = {"200": {"description": good, "content": content}}
    for code in refusals:
        found[str(code)] = {"description": _REFUSALS[code], "content": {_JSON: {"schema": error}}}
    return found
