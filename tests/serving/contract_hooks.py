"""What schemathesis is told of the server; it runs in schemathesis' own environment, where there is no pumice.

Enters: cases that it has made. Leaves: cases that mostly reach the model and answer shortly; counts of what came back,
as JSON in $PUMICE_CONTRACT. Every answer is held against OpenAI's schema, and so is every chunk of a stream.
"""

from __future__ import annotations

import atexit
import json
import os
import random
from collections import Counter
from pathlib import Path
from typing import Any

import jsonschema_rs
import schemathesis

SPEC: dict[str, Any] = json.loads(Path(os.environ["PUMICE_CONTRACT_SCHEMA"]).read_text(encoding="utf-8"))
MODEL, IMAGE = os.environ["PUMICE_CONTRACT_MODEL"], os.environ["PUMICE_CONTRACT_IMAGE"]
COUNTS: Counter[str] = Counter()
CHANCE = random.Random(5)


def _validator(name: str) -> Any:
    return jsonschema_rs.Draft202012Validator(
        {"$ref": f"#/components/schemas/{name}", "components": SPEC["components"]}, validate_formats=False
    )


COMPLETION, CHUNK, REFUSED, MODELS, ONE = map(
    _validator,
    (
        "CreateChatCompletionResponse",
        "CreateChatCompletionStreamResponse",
        "ErrorResponse",
        "ListModelsResponse",
        "Model",
    ),
)


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    """Nine in ten ask the model that there is, for a few tokens, and send an image where they name an address."""
    if case.path == "/models/{model}" and CHANCE.random() < 0.5:
        case.path_parameters = {"model": MODEL}
    body = case.body
    if not isinstance(body, dict) or CHANCE.random() < 0.1:
        return
    if isinstance(body.get("model"), str):
        body["model"] = MODEL
    for name in ("max_tokens", "max_completion_tokens"):
        if type(body.get(name)) is int and body[name] > 4:
            body[name] = 4
    if not {"max_tokens", "max_completion_tokens"} & set(body):
        body["max_completion_tokens"] = 4
    for name in ("tools", "functions", "response_format", "tool_choice", "function_call", "modalities", "audio",
                 "web_search_options", "stop", "logit_bias", "prediction"):  # fmt: skip
        if CHANCE.random() < 0.7:  # of all at once one is always refused
            body.pop(name, None)
    if CHANCE.random() < 0.3:
        body["stream"] = True
    messages = body.get("messages")
    for message in messages if isinstance(messages, list) else ():
        _shorten(message)


def _shorten(message: Any) -> None:
    """Parts that are never accepted go, mostly; addresses become images."""
    content = message.get("content") if isinstance(message, dict) else None
    if not isinstance(content, list):
        return
    for part in list(content):
        if not isinstance(part, dict):
            continue
        if isinstance(part.get("image_url"), dict) and isinstance(part["image_url"].get("url"), str):
            part["image_url"]["url"] = IMAGE if CHANCE.random() < 0.8 else part["image_url"]["url"]
        elif part.get("type") in ("input_audio", "file") and len(content) > 1 and CHANCE.random() < 0.8:
            content.remove(part)


@schemathesis.check
def is_openais(ctx: Any, response: Any, case: Any) -> None:
    """A 200 or a 4xx, and valid."""
    COUNTS["cases"] += 1
    COUNTS[str(response.status_code)] += 1
    COUNTS["chat"] += case.path == "/chat/completions"
    if COUNTS["cases"] % 100 == 0:  # should it be ended early
        _told()
    streamed = response.headers.get("content-type", [""])[0].startswith("text/event-stream")
    COUNTS["streamed"] += streamed
    try:
        if case.method.upper() == "HEAD":
            return
        if streamed:
            _check_stream(response.content.decode())
        elif response.status_code != 200:
            REFUSED.validate(json.loads(response.content))
        else:
            kinds = {"/chat/completions": COMPLETION, "/models": MODELS, "/models/{model}": ONE}
            kinds[case.path].validate(json.loads(response.content))
    except (ValueError, jsonschema_rs.ValidationError) as error:
        COUNTS["invalid"] += 1
        raise AssertionError(f"not as OpenAI has it: {error}") from None


def _check_stream(text: str) -> None:
    events = [event.removeprefix("data: ") for event in text.split("\n\n") if event.startswith("data: ")]
    *chunks, last = events
    for chunk in chunks:
        CHUNK.validate(json.loads(chunk))
    if last != "[DONE]":
        REFUSED.validate(json.loads(last))


@atexit.register
def _told() -> None:
    Path(os.environ["PUMICE_CONTRACT"]).write_text(json.dumps(COUNTS), encoding="utf-8")
