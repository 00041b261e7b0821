"""OpenAI's description of its API, cut to what the server has of it: `python -m tests.serving.openai_cut openapi.json`.

Enters: `openapi.json` of https://github.com/openai/openai-openapi (MIT). Leaves: `openai.json` beside this file: chat
completions and models with every schema they name, without prose and examples. Errors are OpenAI's `ErrorResponse` with
any 4xx, which the original leaves out. `nullable`, which version 3.1 of OpenAPI no longer has, is written in its way.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

CUT = Path(__file__).with_name("openai.json")
ROUTES = (("/chat/completions", "post"), ("/models", "get"), ("/models/{model}", "get"))
_PROSE = {"description", "summary", "example", "examples", "title", "deprecated", "tags"}
_REFUSED = {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorResponse"}}}}


def cut(whole: dict[str, Any]) -> dict[str, Any]:
    """What is left of the document."""
    paths: dict[str, Any] = {}
    for path, method in ROUTES:
        operation = plain(whole["paths"][path][method])
        responses = {"200": operation["responses"]["200"], "4XX": {"description": "refused", **_REFUSED}}
        paths.setdefault(path, {})[method] = {**operation, "responses": responses}
    schemas: dict[str, Any] = {}
    wanted = named(paths)
    while wanted:
        name = wanted.pop()
        schemas[name] = plain(whole["components"]["schemas"][name])
        wanted |= named(schemas[name]) - set(schemas)
    info = {"title": "OpenAI's API, cut", "version": whole["info"]["version"]}
    return {
        "openapi": whole["openapi"],
        "info": info,
        "paths": paths,
        "components": {"schemas": dict(sorted(schemas.items()))},
    }


def plain(value: Any, *, names: bool = False) -> Any:
    """Without prose; `names`: the keys are names of properties, not of the schema's own language."""
    if isinstance(value, list):
        return [plain(item) for item in value]
    if not isinstance(value, dict):
        return value
    kept = {
        key: plain(item, names=key == "properties" and not names)
        for key, item in value.items()
        if names or not (key in _PROSE or key.startswith("x-"))
    }
    if names:
        return kept
    if "content" in kept and "required" not in kept:
        kept["description"] = "OK"  # a response has to have one
    nullable = kept.pop("nullable", False)
    return {"anyOf": [kept, {"type": "null"}]} if nullable else kept


def named(value: Any) -> set[str]:
    """Schemas that a part of the document refers to."""
    if isinstance(value, list):
        return {name for item in value for name in named(item)}
    if not isinstance(value, dict):
        return set()
    own = value.get("$ref")
    found = {own.rpartition("/")[2]} if isinstance(own, str) else set()
    for mapped in value.get("discriminator", {}).get("mapping", {}).values():
        found.add(mapped.rpartition("/")[2])
    return found.union(*(named(item) for item in value.values()))


if __name__ == "__main__":
    original = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    CUT.write_text(
        json.dumps(cut(original), ensure_ascii=False, separators=(",", ":")) + "\n", encoding="utf-8"
    )
