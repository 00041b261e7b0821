"""What programs for local models ask beside answers: health, properties, token ids, counts.

Enters: requests. Leaves: llama.cpp's and vLLM's forms.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from pumice.serve.answers import CHECKS
from pumice.serve.catalogue import About
from pumice.serve.conversation import Conversation, read_messages
from pumice.serve.loaded import Loaded
from pumice.serve.receiving import declared_bytes, read_body, unless_gone
from pumice.serve.refusals import RefusalError
from pumice.serve.residence import Status
from pumice.serve.server import Server
from pumice.serve.wire import Message, checked, read_json

_MOST_TOKENS = 1_000_000
_ENDED = "the engine has ended"


def local_routes(server: Server) -> list[Route]:
    """The routes."""

    async def health(_: Request) -> JSONResponse:
        ended = server.bundles.ended
        if server.bundles.started and not ended:
            return JSONResponse({"status": "ok"})
        message = "Loading model" if server.bundles.failure is None else "the model could not be loaded"
        error = {"code": 503, "message": _ENDED if ended else message, "type": "unavailable_error"}
        return JSONResponse({"status": _ENDED if ended else "loading model", "error": error}, status_code=503)

    async def live(_: Request) -> JSONResponse:
        return JSONResponse({"status": "ok"})

    async def ready(_: Request) -> JSONResponse:
        reason = "draining" if server.draining else server.bundles.not_ready
        if reason is None:
            return JSONResponse({"status": "ok"})
        return JSONResponse({"status": reason}, status_code=503)

    async def props(request: Request) -> JSONResponse:
        name = request.query_params.get("model")
        about = server.bundles.about(name)
        return JSONResponse(_props(about, server.settings.slots, server.bundles.tenant(name).status))

    async def slots(request: Request) -> JSONResponse:
        name = request.query_params.get("model")
        context, loaded = server.bundles.about(name).context, server.bundles.tenant(name).loaded
        busy = 0 if loaded is None else loaded.engine.counters.slots_in_use
        count = server.settings.slots
        return JSONResponse([{"id": i, "n_ctx": context, "is_processing": i < busy} for i in range(count)])

    most_images = server.settings.max_images

    async def tokens(request: Request) -> Response:
        return await _made(request, server, lambda given, loaded: _tokenized(given, loaded, most_images))

    async def text(request: Request) -> Response:
        return await _made(request, server, _detokenized)

    async def prompt(request: Request) -> Response:
        return await _made(
            request,
            server,
            lambda given, loaded: {"prompt": _rendered(loaded, _conversation(given, most_images))},
        )

    async def counted(request: Request) -> Response:
        def count(given: dict[str, Any], loaded: Loaded) -> dict[str, Any]:
            tokens = _count(loaded, _conversation(given, most_images))
            return {"object": "response.input_tokens", "input_tokens": tokens}

        return await _made(request, server, count)

    async def metrics(_: Request) -> Response:
        from pumice.serve.metrics import exposition  # with prometheus_client, which only a scrape needs

        content, media_type = exposition(server)
        return Response(content, media_type=media_type)

    def get(path: str, endpoint: Any) -> Route:
        return Route(path, endpoint, methods=["GET"])

    return [
        get("/health", health),
        get("/v1/health", health),
        get("/health/live", live),
        get("/health/ready", ready),
        get("/ready", ready),
        get("/readyz", ready),
        get("/props", props),
        get("/slots", slots),
        get("/metrics", metrics),
        Route("/tokenize", tokens, methods=["POST"]),
        Route("/detokenize", text, methods=["POST"]),
        Route("/apply-template", prompt, methods=["POST"]),
        Route("/v1/chat/completions/input_tokens", counted, methods=["POST"]),
        Route("/chat/completions/input_tokens", counted, methods=["POST"]),
    ]


async def _made(
    request: Request, server: Server, make: Callable[[dict[str, Any], Loaded], dict[str, Any]]
) -> Response:
    """What is made of a request and the model that it names; in the event loop nothing of it, texts may be long."""
    server.check_open()
    loop, most = asyncio.get_running_loop(), server.settings.max_body
    with server.admission.place(declared_bytes(request.scope, most)):
        given = await loop.run_in_executor(CHECKS, read_json, await read_body(request.receive, most))
        with server.bundles.lease(_text(given, "model", None)) as lease:
            loaded = await unless_gone(request.receive, lease.loaded(server.settings.deadline))

            def made() -> bytes:
                return msgspec.json.encode(make(given, loaded))

            return Response(await loop.run_in_executor(CHECKS, made), media_type="application/json")


def _conversation(given: dict[str, Any], most_images: int) -> Conversation:
    messages = [checked(each, Message) for each in _list(given, "messages")]
    return read_messages(messages, most_images)


def _count(loaded: Loaded, conversation: Conversation) -> int:
    sizes = [image.size for image in conversation.images]
    return loaded.model.pipeline.builder.count(conversation.messages, sizes)


def _rendered(loaded: Loaded, conversation: Conversation) -> str:
    return loaded.model.pipeline.builder.rendered(conversation.messages, len(conversation.images))


def _props(about: About, slots: int, status: Status) -> dict[str, Any]:
    from pumice.generation.options import resolve

    manifest, template = about.manifest, about.template
    options = resolve({}, manifest)
    return {
        "default_generation_settings": {
            "n_ctx": about.context,
            "params": {
                "n_predict": options.max_new_tokens,
                "temperature": options.temperature if options.do_sample else 0.0,
                "top_k": options.top_k,
                "top_p": options.top_p,
                "min_p": options.min_p,
                "repeat_penalty": options.repetition_penalty,
            },
        },
        "total_slots": slots,
        "model_alias": about.name,
        "model_path": about.name,
        "modalities": {"vision": True, "audio": False},
        "media_marker": manifest.image_tokens.token,
        "chat_template": template,
        "chat_template_caps": {
            "supports_tools": False,
            "supports_tool_calls": False,
            "supports_system_role": "system" in template,
        },
        "bos_token": manifest.tokens.bos_token or "",
        "eos_token": manifest.tokens.eos_token or "",
        "build_info": "pumice",
        "is_sleeping": status == "sleeping",
    }


def _tokenized(given: dict[str, Any], loaded: Loaded, most_images: int) -> dict[str, Any]:
    """llama.cpp's `content`, or vLLM's `prompt` and `messages`."""
    if given.get("messages") is not None:
        return {"count": _count(loaded, _conversation(given, most_images)), "max_model_len": loaded.context}
    name = "content" if "content" in given else "prompt"
    text = _text(given, name, "")
    assert text is not None
    special = given.get("add_special" if name == "content" else "add_special_tokens", name == "prompt")
    ids = loaded.model.pipeline.tokenizer.encode(text) if special else loaded.text_ids(text)
    if name == "prompt":
        return {"tokens": ids, "count": len(ids), "max_model_len": loaded.context}
    if given.get("with_pieces"):
        return {"tokens": [{"id": i, "piece": _piece(loaded, i)} for i in ids]}
    return {"tokens": ids}


def _piece(loaded: Loaded, token: int) -> str | list[int]:
    """A token's text; its bytes where they are no text."""
    data = loaded.model.pipeline.tokenizer.token_bytes(token)
    try:
        return data.decode()
    except UnicodeDecodeError:
        return list(data)


def _detokenized(given: dict[str, Any], loaded: Loaded) -> dict[str, Any]:
    ids = _list(given, "tokens")
    size = loaded.model.manifest.decoder.vocab_size
    if len(ids) > _MOST_TOKENS or not all(type(i) is int and 0 <= i < size for i in ids):
        raise RefusalError(f"tokens are not all whole numbers from 0 to {size - 1}", param="tokens")
    text = loaded.model.pipeline.tokenizer.decode(ids)
    return {"content": text, "prompt": text}


def _list(given: dict[str, Any], name: str) -> list[Any]:
    value = given.get(name)
    if not isinstance(value, list) or not value:
        raise RefusalError(f"{name} is no list with something in it", param=name)
    return value


def _text(given: dict[str, Any], name: str, default: str | None) -> str | None:
    value = given.get(name, default)
    if value is not None and not isinstance(value, str):
        raise RefusalError(f"{name} is no text", param=name)
    return value
