"""Legacy completions are `generate` of raw prompts: text, ids, log-probabilities; of one prompt and of several."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from pumice.model import Model
from tests.runtime.serve.running import PATIENCE, Answer, Running, eventually

openai = pytest.importorskip("openai")
PATH = "/v1/completions"
PROMPT = "USER: Describe this picture in more detail. ASSISTANT:"
OTHER = "USER: What colour is it? ASSISTANT:"


@pytest.fixture(scope="module")
def client(server: Running) -> Iterator[Any]:
    with openai.OpenAI(
        base_url=f"{server.url}/v1", api_key="none", timeout=PATIENCE, max_retries=0
    ) as client:
        yield client


def ask(server: Running, prompt: Any = PROMPT, **fields: Any) -> Answer:
    return server.post(PATH, {"prompt": prompt, "temperature": 0, **fields})


def texts(answer: Answer) -> list[str]:
    assert answer.status == 200, answer.body
    return [choice["text"] for choice in answer.json["choices"]]


def streamed(answer: Answer, count: int) -> list[str]:
    choices = [choice for event in answer.events[:-1] for choice in event["choices"]]
    assert answer.events[-1] == "[DONE]"
    return ["".join(c["text"] for c in choices if c["index"] == i) for i in range(count)]


def test_an_answer_is_generate_s_of_the_raw_prompt(client: Any, server: Running, model: Model) -> None:
    expected = model.generate(PROMPT, raw=True, do_sample=False, max_new_tokens=16)
    answer = client.completions.create(
        model="gpt-vision", prompt=PROMPT, temperature=0, extra_body={"return_token_ids": True}
    )
    type(answer).model_validate(answer.to_dict())  # strictly, which the client itself is not
    assert answer.object == "text_completion"
    assert answer.id.startswith("cmpl-")
    (choice,) = answer.choices
    assert (choice.text, choice.finish_reason) == (expected.text, expected.finish_reason)
    assert choice.token_ids == expected.token_ids
    assert len(expected.token_ids) == 16  # OpenAI's, where nothing is said
    assert answer.usage.prompt_tokens == expected.usage.prompt_tokens
    assert answer.usage.completion_tokens == 16
    longer = model.generate(PROMPT, raw=True, do_sample=False, max_new_tokens=2000)
    assert texts(ask(server, max_tokens=-1)) == [longer.text]


def test_a_stream_is_the_whole_in_pieces(client: Any) -> None:
    asked = {"model": "gpt-vision", "prompt": PROMPT, "temperature": 0, "max_tokens": 20, "echo": True}
    whole = client.completions.create(**asked)
    *chunks, counts = client.completions.create(**asked, stream=True, stream_options={"include_usage": True})
    assert "".join(chunk.choices[0].text for chunk in chunks) == whole.choices[0].text
    assert whole.choices[0].text.startswith(PROMPT)
    assert chunks[0].choices[0].text == PROMPT
    ends = [chunk.choices[0].finish_reason for chunk in chunks]
    assert ends == [None] * (len(chunks) - 1) + [whole.choices[0].finish_reason]
    assert {chunk.object for chunk in chunks} == {"text_completion"}
    assert counts.choices == []
    assert {chunk.usage for chunk in chunks} == {None}
    assert counts.usage.total_tokens == whole.usage.total_tokens


def test_several_prompts_are_answered_in_order(server: Running) -> None:
    prompts = [f"USER: What is this, number {i}? ASSISTANT:" for i in range(7)]  # more than there are slots
    alone = [texts(ask(server, prompt, max_tokens=8))[0] for prompt in prompts]
    together = ask(server, prompts, max_tokens=8)
    assert texts(together) == alone
    assert [choice["index"] for choice in together.json["choices"]] == list(range(7))
    counts = [ask(server, prompt, max_tokens=8).json["usage"] for prompt in prompts]
    for name in ("prompt_tokens", "completion_tokens", "total_tokens"):
        assert together.json["usage"][name] == sum(count[name] for count in counts)
    assert streamed(ask(server, prompts, max_tokens=8, stream=True), 7) == alone
    twice = [text for text in alone[:2] for _ in range(2)]
    assert texts(ask(server, prompts[:2], max_tokens=8, n=2)) == twice
    assert streamed(ask(server, prompts[:2], max_tokens=8, n=2, stream=True), 4) == twice
    assert streamed(ask(server, prompts[:2], max_tokens=1, n=2, stream=True, echo=True), 4)[2].startswith(
        prompts[1]
    )
    eventually(server.idle)


def test_drawn_answers_of_several_prompts(server: Running, model: Model) -> None:
    drawn = {"temperature": 1.3, "seed": 7}
    expected = [
        answer.text
        for prompt in (PROMPT, OTHER)
        for answer in model.generate(
            prompt, raw=True, do_sample=True, max_new_tokens=6, num_return_sequences=2, **drawn
        )
    ]
    assert texts(ask(server, [PROMPT, OTHER], n=2, max_tokens=6, **drawn)) == expected
    assert streamed(ask(server, [PROMPT, OTHER], n=2, max_tokens=6, stream=True, **drawn), 4) == expected


def test_token_ids_are_prompts_too(server: Running, model: Model) -> None:
    ids = model.prepare(PROMPT, raw=True).input_ids[0].tolist()
    expected = texts(ask(server, max_tokens=8))
    assert texts(ask(server, ids, max_tokens=8)) == expected
    assert texts(ask(server, [ids, PROMPT], max_tokens=8)) == 2 * expected
    assert texts(ask(server, ids[1:], max_tokens=8)) == texts(
        ask(server, max_tokens=8, add_special_tokens=False)
    )
    counts = [ask(server, p, max_tokens=1).json["usage"]["prompt_tokens"] for p in (ids, ids[1:])]
    assert counts == [len(ids), len(ids) - 1]


def test_special_tokens_are_special_where_they_are_written(server: Running, model: Model) -> None:
    """The prompt is the whole prompt: whoever writes it writes its template, too."""
    prompt = f"{PROMPT} A red sign.</s>{OTHER}"
    ids = model.prepare(prompt, raw=True).input_ids[0].tolist()
    assert ids.count(model.manifest.tokens.eos_ids[0]) == 1
    answer = ask(server, prompt, max_tokens=5)
    assert answer.json["usage"]["prompt_tokens"] == len(ids)
    assert texts(answer) == [model.generate(prompt, raw=True, do_sample=False, max_new_tokens=5).text]


def test_logprobs_in_the_legacy_form(server: Running, model: Model) -> None:
    expected = model.generate(PROMPT, raw=True, do_sample=False, logprobs=3, max_new_tokens=6)
    assert expected.logprobs is not None
    whole = ask(server, logprobs=3, max_tokens=6)
    found = whole.json["choices"][0]["logprobs"]
    assert found["tokens"] == [token.token for token in expected.logprobs]
    assert found["token_logprobs"] == pytest.approx([t.logprob for t in expected.logprobs], abs=1e-5)
    for top, token in zip(found["top_logprobs"], expected.logprobs, strict=True):
        assert top == pytest.approx({t.token: t.logprob for t in (*token.top, token)}, abs=1e-5)
    text = texts(whole)[0]
    for token, start in zip(found["tokens"], found["text_offset"], strict=True):
        assert text[start : start + len(token)] == token
    parts = [
        event["choices"][0]["logprobs"]
        for event in ask(server, logprobs=3, max_tokens=6, stream=True).events[:-1]
        if event["choices"][0]["logprobs"]
    ]
    assert [offset for part in parts for offset in part["text_offset"]] == found["text_offset"]
    chosen = ask(server, logprobs=0, max_tokens=2).json["choices"][0]["logprobs"]
    assert [list(top) for top in chosen["top_logprobs"]] == [[token] for token in chosen["tokens"]]
    assert ask(server).json["choices"][0]["logprobs"] is None


@pytest.mark.parametrize(
    ("fields", "options"),
    [
        ({"stop": "red"}, {"stop_strings": "red"}),
        ({"frequency_penalty": 1.5}, {"frequency_penalty": 1.5}),
        ({"presence_penalty": 2}, {"presence_penalty": 2.0}),
        ({"logit_bias": {"402": -100}}, {"logit_bias": {402: -100}}),
        ({"temperature": 2, "top_p": 0.9, "seed": 3}, {"do_sample": True, "temperature": 2.0, "top_p": 0.9, "seed": 3}),
        ({"regex": "(red|blue)", "user": "me", "best_of": 1, "suffix": ""}, {"regex": "(red|blue)"}),
    ],
)  # fmt: skip
def test_options_have_their_effect(
    server: Running, model: Model, fields: dict[str, Any], options: dict[str, Any]
) -> None:
    expected = model.generate(PROMPT, raw=True, max_new_tokens=16, **options)
    assert texts(ask(server, **fields)) == [expected.text]


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        ({}, None, "prompt"),
        ({"prompt": []}, None, "prompt"),
        ({"prompt": 5}, None, "prompt"),
        ({"prompt": ["a", 5]}, None, "prompt[1]"),
        ({"prompt": [True, False]}, None, "prompt[0]"),
        ({"prompt": [1, -1]}, None, "prompt[0]"),
        ({"prompt": ["a"] * 65}, None, "prompt"),
        ({"prompt": [10**9]}, None, "prompt"),
        ({"prompt": "an <image>"}, None, "prompt"),
        ({"prompt": ["fine", "an <image>"]}, None, "prompt[1]"),
        ({"prompt": "word " * 4000}, "context_length_exceeded", "prompt"),
        ({"prompt": "a", "logprobs": 6}, None, "logprobs"),
        ({"prompt": "a", "logprobs": True}, None, "logprobs"),
        ({"prompt": "a", "logprobs": 1, "echo": True}, "unsupported_value", "logprobs"),
        ({"prompt": "a", "suffix": "b"}, "unsupported_value", "suffix"),
        ({"prompt": "a", "best_of": 3}, "unsupported_value", "best_of"),
        ({"prompt": "a", "messages": [{}]}, "unsupported_value", "messages"),
        ({"prompt": "a", "tools": [{}]}, "unsupported_value", "tools"),
        ({"prompt": "a", "echo": "yes"}, None, "echo"),
        ({"prompt": "a", "max_tokens": 0}, "unsupported_value", "max_tokens"),
        ({"prompt": "a", "n": 5, "temperature": 1}, "unsupported_value", None),
        ({"prompt": "a", "model": "gpt-4o"}, "model_not_found", "model"),
    ],
)
def test_what_is_refused(server: Running, body: Any, code: str | None, param: str | None) -> None:
    answer = server.post(PATH, body)
    assert answer.status == (404 if code == "model_not_found" else 400), answer.body
    assert (answer.error["code"], answer.error["param"]) == (code, param), answer.error
    eventually(server.idle)


def test_leaving_ends_the_answers_to_all_prompts(client: Any, server: Running) -> None:
    before = server.loaded.engine.counters
    stream = client.completions.create(
        model="gpt-vision", prompt=[PROMPT, OTHER] * 4, temperature=0, max_tokens=1900, stream=True,
        extra_body={"ignore_eos": True},
    )  # fmt: skip
    next(iter(stream))
    stream.close()
    eventually(server.idle)
    eventually(lambda: server.loaded.engine.counters.cancelled > before.cancelled)
    after = server.loaded.engine.counters
    assert after.finished == before.finished
    assert after.generated_tokens - before.generated_tokens < 8 * 1900
