"""The models of a server, with what OpenAI's, llama.cpp's and vLLM's clients read in their list; loading and unloading.

Enters: the models. Leaves: their list, or one of them, whether it is loaded or not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from pumice.serve.receiving import declared_bytes, read_body
from pumice.serve.refusals import RefusalError, model_failed
from pumice.serve.server import Server
from pumice.serve.tenant import Tenant
from pumice.serve.wire import read_json

_MOST_BYTES = 65_536


def model_routes(server: Server) -> list[Route]:
    """The routes."""

    async def listed(_: Request) -> JSONResponse:
        entries = [_entry(tenant) for tenant in server.bundles.tenants]
        return JSONResponse(
            {"object": "list", "data": entries, "models": [_brief(entry) for entry in entries]}
        )

    async def one(request: Request) -> JSONResponse:
        return JSONResponse(_entry(server.bundles.tenant(request.path_params["name"])))

    return [
        *(
            Route(path, endpoint, methods=["GET"])
            for prefix in ("/v1/models", "/models")
            for path, endpoint in ((prefix, listed), (f"{prefix}/{{name:path}}", one))
        ),
        Route("/models/load", _moving(server, server.bundles.call), methods=["POST"]),
        Route("/models/unload", _moving(server, server.bundles.dismiss), methods=["POST"]),
    ]


def _moving(server: Server, move: Callable[[str], None]) -> Any:
    """A route of llama.cpp's, which names a model and does not wait."""

    async def moved(request: Request) -> JSONResponse:
        server.check_open()
        given = read_json(await read_body(request.receive, declared_bytes(request.scope, _MOST_BYTES)))
        name = given.get("model")
        if not isinstance(name, str):
            raise RefusalError("model is no text, expected a model's name", param="model")
        move(name)
        return JSONResponse({"success": True})

    return moved


_ARCHITECTURE = {"input_modalities": ["text", "image"], "output_modalities": ["text"]}


def _entry(tenant: Tenant) -> dict[str, Any]:
    """A client may take any of its names."""
    name, *aliases = tenant.offer.names
    about = tenant.about
    entry = {
        "id": name,
        "object": "model",
        "created": 0 if about is None else about.created,
        "owned_by": "pumice",
        "aliases": aliases,
        "status": _status(tenant),
        "architecture": _ARCHITECTURE,
    }
    if about is None:
        return entry
    decoder = about.manifest.decoder
    return entry | {
        "max_model_len": about.context,
        "meta": {
            "n_ctx": about.context,
            "n_ctx_train": decoder.context_length,
            "n_vocab": decoder.vocab_size,
            "n_embd": decoder.hidden_size,
            "size": about.size,
        },
    }


def _status(tenant: Tenant) -> dict[str, Any]:
    """llama.cpp's router's; of one that cannot be opened that, and no more than its clients may know."""
    status: dict[str, Any] = {"value": tenant.status}
    if tenant.failure is not None:
        status |= {"failed": True, "error": str(model_failed(tenant.name, tenant.failure))}
    return status


def _brief(entry: dict[str, Any]) -> dict[str, Any]:
    """llama.cpp's second list."""
    return {
        "name": entry["id"],
        "model": entry["id"],
        "type": "model",
        "capabilities": ["completion", "multimodal"],
        "aliases": entry["aliases"],
    }
