"""`GET /v1/models`, with what OpenAI's, llama.cpp's and vLLM's clients read in it.

Enters: the models of a server. Leaves: their list, or one of them. A model that is being loaded is listed.
"""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from pumice.serve.bundles import Loaded
from pumice.serve.refusals import RefusalError
from pumice.serve.server import Server


def model_routes(server: Server) -> list[Route]:
    """The routes."""

    async def listed(_: Request) -> JSONResponse:
        entries = _entries(server)
        return JSONResponse(
            {"object": "list", "data": entries, "models": [_brief(entry) for entry in entries]}
        )

    async def one(request: Request) -> JSONResponse:
        name = request.path_params["name"].removesuffix(":latest")
        for entry in _entries(server):
            if name == entry["id"] or name in entry["aliases"]:
                return JSONResponse(entry)
        raise RefusalError(
            f"there is no model {name[:200]!r}: {', '.join(map(repr, server.bundles.names))}",
            status=404,
            param="model",
            code="model_not_found",
        )

    return [
        Route(path, endpoint, methods=["GET"])
        for prefix in ("/v1/models", "/models")
        for path, endpoint in ((prefix, listed), (f"{prefix}/{{name:path}}", one))
    ]


def _entries(server: Server) -> list[dict[str, Any]]:
    """One for each model; a client may take any of its names."""
    loaded = server.bundles.loaded
    if loaded:
        return [_entry(each) for each in loaded]
    name, *aliases = server.bundles.names
    return [
        {
            "id": name,
            "object": "model",
            "created": 0,
            "owned_by": "pumice",
            "aliases": aliases,
            "status": {"value": "loading"},
            "architecture": _ARCHITECTURE,
        }
    ]


_ARCHITECTURE = {"input_modalities": ["text", "image"], "output_modalities": ["text"]}


def _entry(loaded: Loaded) -> dict[str, Any]:
    decoder = loaded.model.manifest.decoder
    return {
        "id": loaded.name,
        "object": "model",
        "created": loaded.created,
        "owned_by": "pumice",
        "aliases": list(loaded.aliases),
        "status": {"value": "loaded"},
        "architecture": _ARCHITECTURE,
        "max_model_len": loaded.context,
        "meta": {
            "n_ctx": loaded.context,
            "n_ctx_train": decoder.context_length,
            "n_vocab": decoder.vocab_size,
            "n_embd": decoder.hidden_size,
            "size": loaded.size,
        },
    }


def _brief(entry: dict[str, Any]) -> dict[str, Any]:
    """llama.cpp's second list."""
    return {
        "name": entry["id"],
        "model": entry["id"],
        "type": "model",
        "capabilities": ["completion", "multimodal"],
        "aliases": entry["aliases"],
    }
