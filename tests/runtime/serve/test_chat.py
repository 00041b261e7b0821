"""Answers over HTTP are those of `model.generate`: text, ids, counts, log-probabilities; streamed as well as whole."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pumice.model import Model
from tests.runtime.serve.running import CHAT, Running, image_part, png, question, text

ABOUT = "Describe this picture in more detail."


def joined(events: list[Any], index: int = 0) -> str:
    """The text of a stream's answer."""
    choices = [choice for event in events if event != "[DONE]" for choice in event["choices"]]
    return "".join(c["delta"].get("content") or "" for c in choices if c["index"] == index)


def ids_of(events: list[Any], index: int = 0) -> list[int]:
    choices = [choice for event in events if event != "[DONE]" for choice in event["choices"]]
    return [i for c in choices if c["index"] == index for i in c.get("token_ids", ())]


@pytest.mark.parametrize("images_first", [True, False])
def test_a_greedy_answer_is_that_of_generate(
    server: Running, model: Model, stop_sign: bytes, images_first: bool
) -> None:
    parts = [image_part(stop_sign), text(ABOUT)][:: 1 if images_first else -1]
    places = [{"type": "image"}, text(ABOUT)][:: 1 if images_first else -1]
    expected = model.generate(
        [{"role": "user", "content": places}], [stop_sign], do_sample=False, max_new_tokens=2000
    )
    answer = server.chat(parts, return_token_ids=True)
    assert answer.status == 200
    (choice,) = answer.json["choices"]
    assert answer.text == expected.text
    assert choice["token_ids"] == expected.token_ids
    assert choice["finish_reason"] == "stop"
    assert choice["message"]["role"] == "assistant"
    usage = answer.json["usage"]
    assert usage["prompt_tokens"] == expected.usage.prompt_tokens
    assert usage["completion_tokens"] == len(expected.token_ids)
    assert usage["total_tokens"] == expected.usage.total_tokens
    assert usage["prompt_tokens_details"]["image_tokens"] == expected.usage.image_tokens > 0
    assert answer.json["object"] == "chat.completion"
    assert answer.json["id"].startswith("chatcmpl-")


def test_a_streamed_answer_is_the_whole_one_in_pieces(server: Running, stop_sign: bytes) -> None:
    fields = {"logprobs": True, "top_logprobs": 2, "return_token_ids": True}
    content = [image_part(stop_sign), text(ABOUT)]
    whole = server.chat(content, **fields)
    answer = server.chat(content, stream=True, stream_options={"include_usage": True}, **fields)
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["cache-control"] == "no-cache"
    *chunks, counts, done = answer.events
    assert done == "[DONE]"
    assert {chunk["id"] for chunk in chunks} == {counts["id"]}
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert [c["choices"][0]["finish_reason"] for c in chunks] == [None] * (len(chunks) - 1) + ["stop"]
    assert chunks[-1]["choices"][0]["delta"] == {}
    assert joined(chunks) == whole.text
    assert len(chunks) > 10
    assert ids_of(chunks) == whole.json["choices"][0]["token_ids"]
    content = [entry for c in chunks for entry in (c["choices"][0]["logprobs"] or {}).get("content", ())]
    expected = whole.json["choices"][0]["logprobs"]["content"]
    assert [entry["token"] for entry in content] == [entry["token"] for entry in expected]
    assert [e["logprob"] for e in content] == pytest.approx([e["logprob"] for e in expected], abs=1e-5)
    assert counts["choices"] == []
    assert {chunk["usage"] for chunk in chunks} == {None}
    assert counts["usage"]["completion_tokens"] == whole.json["usage"]["completion_tokens"]


def test_logprobs_are_those_of_generate(server: Running, model: Model) -> None:
    expected = model.generate(ABOUT, do_sample=False, logprobs=3, max_new_tokens=6)
    answer = server.chat(ABOUT, logprobs=True, top_logprobs=3, max_tokens=6)
    content = answer.json["choices"][0]["logprobs"]["content"]
    assert expected.logprobs is not None
    ends = model.manifest.tokens.eos_ids
    shown = [entry for entry in expected.logprobs if entry.token_id not in ends]
    assert [entry["token"] for entry in content] == [entry.token for entry in shown]
    assert [e["logprob"] for e in content] == pytest.approx([e.logprob for e in shown], abs=1e-5)
    assert b"".join(bytes(entry["bytes"]) for entry in content).decode() == answer.text
    for entry, known in zip(content, shown, strict=True):
        assert [other["token"] for other in entry["top_logprobs"]] == [other.token for other in known.top]


def test_drawn_answers_are_those_of_the_seed(server: Running, model: Model) -> None:
    options = {"temperature": 1.3, "top_p": 0.95, "seed": 7}
    expected = model.generate(ABOUT, do_sample=True, max_new_tokens=12, num_return_sequences=3, **options)
    assert isinstance(expected, list)
    whole = server.chat(ABOUT, n=3, max_tokens=12, **options)
    assert [c["message"]["content"] for c in whole.json["choices"]] == [g.text for g in expected]
    assert [c["index"] for c in whole.json["choices"]] == [0, 1, 2]
    events = server.chat(ABOUT, n=3, max_tokens=12, stream=True, **options).events
    assert [joined(events, i) for i in range(3)] == [g.text for g in expected]
    assert len({g.text for g in expected}) > 1
    ends = [c["finish_reason"] for e in events[:-1] for c in e["choices"] if c["finish_reason"]]
    assert ends == [g.finish_reason for g in expected]


def test_several_greedy_answers_are_computed_once(server: Running) -> None:
    one = server.chat(ABOUT, max_tokens=9)
    generated = server.loaded.engine.counters.generated_tokens
    several = server.chat(ABOUT, n=6, max_tokens=9)  # more than there are slots
    assert [c["message"]["content"] for c in several.json["choices"]] == [one.text] * 6
    assert several.json["usage"]["completion_tokens"] == 6 * one.json["usage"]["completion_tokens"]
    computed = server.loaded.engine.counters.generated_tokens - generated
    assert computed == one.json["usage"]["completion_tokens"]
    events = server.chat(ABOUT, n=6, max_tokens=9, stream=True).events
    assert [joined(events, i) for i in range(6)] == [one.text] * 6


@pytest.mark.parametrize(
    ("fields", "options"),
    [
        ({"max_tokens": 3}, {"max_new_tokens": 3}),
        ({"max_tokens": 9, "max_completion_tokens": 4}, {"max_new_tokens": 4}),
        ({"max_tokens": 100_000}, {"max_new_tokens": 2000}),
        ({"max_tokens": -1}, {"max_new_tokens": 2000}),
        ({"stop": "red"}, {"stop_strings": "red"}),
        ({"stop": ["octagon", "yellow", ""]}, {"stop_strings": ["octagon", "yellow"]}),
        ({"logit_bias": {"402": -100, "264": -5}}, {"logit_bias": {402: -100, 264: -5}}),
        ({"frequency_penalty": 1.5}, {"frequency_penalty": 1.5}),
        ({"presence_penalty": 2}, {"presence_penalty": 2.0}),
        ({"repeat_penalty": 1.4}, {"repetition_penalty": 1.4}),
        ({"min_tokens": 60, "max_tokens": 60}, {"min_new_tokens": 60, "max_new_tokens": 60}),
        ({"ignore_eos": True, "max_tokens": 60}, {"eos_token_id": [], "max_new_tokens": 60}),
        ({"stop_token_ids": [402]}, {"eos_token_id": [2, 402]}),
        ({"no_repeat_ngram_size": 2}, {"no_repeat_ngram_size": 2}),
        ({"temperature": None, "top_k": 5, "seed": 3}, {"do_sample": True, "top_k": 5, "seed": 3}),
        ({"temperature": 2, "min_p": 0.1, "seed": -5}, {"do_sample": True, "temperature": 2.0, "min_p": 0.1,
                                                       "seed": 2**64 - 5}),
        ({"temperature": None, "seed": 3}, {}),
        ({"user": "me", "metadata": {"a": 1}, "store": False, "service_tier": "auto", "verbosity": "low",
          "reasoning_effort": "low", "parallel_tool_calls": True, "cache_prompt": True, "num_beams": 1,
          "tools": [], "tool_choice": "auto", "timings_per_token": True, "modalities": ["text"]}, {}),
    ],
)  # fmt: skip
def test_options_have_their_effect(
    server: Running, model: Model, stop_sign: bytes, fields: dict[str, Any], options: dict[str, Any]
) -> None:
    places = [{"role": "user", "content": [{"type": "image"}, text(ABOUT)]}]
    options = {"max_new_tokens": 2000, **options}
    expected = model.generate(places, [stop_sign], **options)
    answer = server.chat([image_part(stop_sign), text(ABOUT)], return_token_ids=True, **fields)
    assert answer.status == 200, answer.body
    (choice,) = answer.json["choices"]
    assert choice["token_ids"] == expected.token_ids
    assert choice["message"]["content"] == expected.text
    assert choice["finish_reason"] == expected.finish_reason


def test_bad_words_are_not_said(server: Running, stop_sign: bytes) -> None:
    content = [image_part(stop_sign), text(ABOUT)]
    assert "star" in server.chat(content).text
    assert "star" not in server.chat(content, bad_words=["star"]).text


def test_roles_that_templates_do_not_know_are_told(server: Running, model: Model) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "look", "arguments": '{"at": "it"}'}}
    messages = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": "What is this?", "name": "ann"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": "A red square."},
    ]
    told = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "What is this?"},
        {"role": "assistant", "content": 'look({"at": "it"})'},
        {"role": "user", "content": "A red square."},
    ]
    answer = server.post(CHAT, {"messages": messages, "temperature": 0, "max_tokens": 8})
    expected = model.generate(told, max_new_tokens=8)
    assert answer.text == expected.text
    assert answer.json["usage"]["prompt_tokens"] == expected.usage.prompt_tokens


def test_the_last_message_goes_on(server: Running, model: Model) -> None:
    messages = [{"role": "user", "content": "What is this?"}, {"role": "assistant", "content": "A red"}]
    expected = model.generate(messages, max_new_tokens=5, continue_final_message=True)
    body = {"messages": messages, "continue_final_message": True, "max_tokens": 5, "temperature": 0}
    assert server.post(CHAT, body).text == expected.text


def test_images_come_in_every_form_of_text(server: Running, stop_sign: bytes) -> None:
    import base64

    plain = base64.b64encode(stop_sign).decode()
    expected = server.chat([image_part(stop_sign), text(ABOUT)]).text
    for url in (plain, f"DATA:image/jpeg;base64,{plain}", f"data:application/octet-stream;base64,{plain}",
                plain.replace("+", "-").replace("/", "_").rstrip("="), plain[:100] + "\n" + plain[100:]):  # fmt: skip
        part = {"type": "image_url", "image_url": {"url": url, "detail": "low"}}
        assert server.chat([part, text(ABOUT)]).text == expected
    own = {"type": "input_image", "image_url": f"data:image/png;base64,{plain}", "detail": "auto"}
    assert server.chat([own, {"type": "input_text", "text": ABOUT}]).text == expected


def test_many_at_once_are_each_as_alone(server: Running, stop_sign: bytes) -> None:
    from concurrent.futures import ThreadPoolExecutor

    images = [stop_sign, png("red"), png("blue", (30, 90)), None]

    def content(i: int) -> list[dict[str, Any]]:
        image = images[i % 4]
        return [*([image_part(image)] if image else []), text(f"What is this, number {i % 7}?")]

    alone = {i: server.chat(content(i), max_tokens=12).text for i in range(28)}

    def ask(i: int) -> str:
        answer = server.chat(content(i), max_tokens=12, stream=i % 3 == 0)
        return joined(answer.events) if i % 3 == 0 else answer.text

    with ThreadPoolExecutor(16) as pool:
        assert dict(enumerate(pool.map(ask, range(28)))) == alone


def test_drawn_answers_with_a_seed_are_as_alone_too(server: Running) -> None:
    import random
    from concurrent.futures import ThreadPoolExecutor

    from tests.serving.isolation import _body

    bodies = [_body(number) for number in range(1, 32, 2)]
    alone = [server.post(CHAT, body).json["choices"][0]["token_ids"] for body in bodies]
    assert len({tuple(ids) for ids in alone}) > 4
    order = random.Random(3).sample(range(16), 16)
    with ThreadPoolExecutor(16) as pool:
        found = dict(zip(order, pool.map(lambda i: server.post(CHAT, bodies[i]), order), strict=True))
    assert [found[i].json["choices"][0]["token_ids"] for i in range(16)] == alone


def test_timings_tell_where_the_time_went(server: Running, stop_sign: bytes) -> None:
    timings = server.chat([image_part(stop_sign), text("What?" * 9)]).json["timings"]
    assert {"cache_n", "prompt_n", "prompt_ms", "prompt_per_second", "predicted_n", "predicted_ms"} <= set(
        timings
    )
    assert timings["prompt_n"] + timings["cache_n"] > 36
    assert timings["vision_ms"] > 0
    events = server.chat("Hi", stream=True, max_tokens=2).events
    assert events[-2]["timings"]["predicted_n"] == 2


def test_the_body_may_be_of_any_declared_type(server: Running) -> None:
    body = json.dumps(question("Hi", max_tokens=1)).encode()
    assert server.post(CHAT, body, {"Content-Type": "text/plain"}).status == 200
