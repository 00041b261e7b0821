"""Damaged images and bodies: an answer or a typed refusal, nothing of the inside, and the server as it was.

More of them by hand: PUMICE_FUZZ=10000 pytest tests/runtime/serve/test_fuzz.py
"""

from __future__ import annotations

import json
import os
import random
import re
from http.client import HTTPConnection
from io import BytesIO
from typing import Any

import pytest
from PIL import Image

from tests.runtime.serve.running import CHAT, PATIENCE, Running, eventually, image_part, question, text

CASES = int(os.environ.get("PUMICE_FUZZ", "150"))
LEAKS = re.compile(rb"0x[0-9a-f]{6,}|Traceback|File \"|/tmp/|/home/|/root/|site-packages|\.py\b")


def images() -> list[bytes]:
    """A small one of every kind that is read, and some that are not."""
    made = []
    for form, mode in [("PNG", "RGBA"), ("PNG", "P"), ("PNG", "I;16"), ("JPEG", "RGB"), ("JPEG", "CMYK"),
                       ("WEBP", "RGB"), ("GIF", "P"), ("BMP", "RGB"), ("TIFF", "RGB")]:  # fmt: skip
        file = BytesIO()
        Image.effect_noise((40, 30), 80).convert("RGB" if mode in ("P", "CMYK") else "L").convert(mode).save(
            file, form
        )
        made.append(file.getvalue())
    return made


def mutated(data: bytes, chance: random.Random) -> bytes:
    """Some bytes changed, cut, doubled or put in."""
    changed = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 5, 20))):
        place = chance.randrange(len(changed) + 1)
        match chance.randrange(5):
            case 0:
                changed[place : place + 1] = bytes([chance.randrange(256)])
            case 1:
                del changed[place : place + chance.choice((1, 4, len(changed) // 3))]
            case 2:
                changed[place:place] = changed[place : place + 16]
            case 3:
                changed[place : place + 4] = chance.choice((b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff"))
            case 4:
                changed[place:place] = chance.randbytes(3)
    return bytes(changed)


def check(server: Running, bodies: Any, path: str = CHAT) -> dict[int, int]:
    """Send them over one connection after the other; counts of statuses."""
    statuses: dict[int, int] = {}
    connection = HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)
    for body in bodies:
        connection.request("POST", path, body)
        response = connection.getresponse()
        data = response.read()
        statuses[response.status] = statuses.get(response.status, 0) + 1
        assert response.status == 200 or 400 <= response.status < 500, (response.status, data, body)
        assert not LEAKS.search(data), (data, body)
        if response.status != 200:
            assert set(json.loads(data)["error"]) == {"message", "type", "param", "code"}
        elif b'"stream": true' not in body:
            assert b"usage" in data
    connection.close()
    eventually(server.idle)
    return statuses


def test_damaged_images(server: Running, stop_sign: bytes) -> None:
    chance = random.Random(16)
    golden = server.chat([image_part(stop_sign), text("Describe it.")]).text
    sound = images()
    cases = (
        json.dumps(
            question(
                [image_part(mutated(chance.choice(sound), chance), "jpeg"), text("?")],
                max_tokens=1,
                stream=chance.random() < 0.1,
            )
        ).encode()
        for _ in range(CASES)
    )
    statuses = check(server, cases)
    assert statuses[200] > 0
    assert statuses[400] > 0
    assert server.chat([image_part(stop_sign), text("Describe it.")]).text == golden


VALUES = (
    None, True, False, 0, -1, 1, 2**31, -(2**63), 1e308, "", "x", "\x00", "\u202e", [], {}, [[]], [None], "auto",
    {"type": "text"}, {"type": "json_object"}, {"a": {"b": []}},
)  # fmt: skip


def test_damaged_bodies(server: Running) -> None:
    chance = random.Random(17)
    fields = (
        "messages", "temperature", "top_p", "n", "stop",
        "seed", "logit_bias", "logprobs", "top_logprobs", "response_format",
        "tools", "tool_choice", "stream_options", "stream", "max_tokens",
        "top_k", "min_p", "model", "user", "frequency_penalty",
        "json_schema", "regex", "guided_choice", "functions", "stop_token_ids",
        "bad_words", "min_tokens", "continue_final_message", "add_generation_prompt",
    )  # fmt: skip

    def body() -> bytes:
        asked: dict[str, Any] = question("Hi", max_tokens=1)
        for _ in range(chance.choice((1, 2, 3))):
            asked[chance.choice(fields)] = chance.choice(VALUES)
        if chance.random() < 0.3:
            content: Any = [
                {"type": chance.choice(("text", "image_url", "x")), "text": chance.choice(VALUES)}
            ]
            asked["messages"] = [
                {"role": chance.choice(("user", "assistant", "tool", "")), "content": content}
            ]
        if asked.get("max_tokens") not in (0, -1, 1):
            asked["max_tokens"] = 1  # so that a case takes a moment
        data = json.dumps(asked).encode()
        return mutated(data, chance) if chance.random() < 0.3 else data

    statuses = check(server, (body() for _ in range(2 * CASES)))
    assert statuses[200] > 0
    assert statuses[400] > 0


COMPLETIONS = (
    "prompt", "max_tokens", "temperature", "top_p", "n", "stop",
    "seed", "logprobs", "echo", "suffix", "best_of", "stream",
    "stream_options", "logit_bias", "model", "add_special_tokens", "messages", "return_token_ids",
)  # fmt: skip
RESPONSES = (
    "input", "instructions", "temperature", "top_p", "text", "tools",
    "tool_choice", "include", "top_logprobs", "store", "metadata", "previous_response_id",
    "background", "truncation", "stream", "reasoning", "parallel_tool_calls", "model",
    "user", "conversation", "seed", "stop", "max_tool_calls", "prompt",
)  # fmt: skip
ITEMS = (
    {"role": "user", "content": "x"}, {"type": "function_call", "name": "f", "arguments": "{}"}, {"type": "x"},
    {"type": "function_call_output", "output": [{"type": "input_text", "text": "x"}]}, {"type": "reasoning"},
    {"role": "user", "content": [{"type": "input_image", "image_url": "data:,x"}]}, {"type": "item_reference"},
    {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "x"}]},
    {"type": "function", "name": "f"}, {"type": "json_schema", "schema": {}}, {"format": {"type": "json_schema"}},
    {"type": "allowed_tools", "tools": [None], "mode": "required"}, {"role": "assistant", "content": None},
)  # fmt: skip


@pytest.mark.parametrize(
    ("path", "fields", "limit"),
    [
        ("/v1/completions", COMPLETIONS, {"prompt": "Hi", "max_tokens": 1}),
        ("/v1/responses", RESPONSES, {"input": "Hi", "max_output_tokens": 1}),
    ],
)
def test_damaged_bodies_of_other_forms(
    server: Running, path: str, fields: tuple[str, ...], limit: dict[str, Any]
) -> None:
    chance = random.Random(18)

    def value(depth: int = 0) -> Any:
        kind = chance.randrange(6)
        if kind == 0 and depth < 2:
            return [value(depth + 1) for _ in range(chance.randrange(4))]
        if kind == 1 and depth < 2:
            item = dict(chance.choice(ITEMS))
            item[chance.choice(list(item))] = value(depth + 1)
            return item
        return chance.choice(ITEMS if kind == 2 else VALUES)

    def body() -> bytes:
        asked: dict[str, Any] = {**limit, "temperature": 0}
        for _ in range(chance.choice((1, 1, 2, 3))):
            asked[chance.choice(fields)] = value()
        if asked.get("max_tokens", 1) not in (0, 1):
            asked["max_tokens"] = 1
        data = json.dumps(asked).encode()
        return mutated(data, chance) if chance.random() < 0.2 else data

    statuses = check(server, (body() for _ in range(CASES)), path)
    assert statuses[200] > 0
    assert statuses[400] > 0
