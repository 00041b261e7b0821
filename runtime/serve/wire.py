"""What a client of OpenAI's API sends, checked for its form.

Enters: a body. Leaves: a `ChatRequest`. Fields that nobody knows are passed over, but for those that would change the
answer: a client that asks for something gets it, or hears that it does not.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

from pumice.serve.refusals import RefusalError, unsupported

Count = Annotated[int, Meta(ge=0)]
_T = TypeVar("_T")


class StreamOptions(msgspec.Struct):
    """`stream_options`."""

    include_usage: bool | None = None


class Message(msgspec.Struct):
    """One of `messages`; its parts are looked at in `conversation.py`."""

    role: str
    content: str | list[Any] | None = None
    tool_calls: list[Any] | None = None


def in_messages(message: int) -> str:
    """Where a message stands in a chat's request."""
    return f"messages[{message}]"


class ChatRequest(msgspec.Struct):
    """`POST /v1/chat/completions`: OpenAI's fields, then llama.cpp's and vLLM's."""

    messages: Annotated[list[Message], Meta(min_length=1)]
    model: str | None = None
    max_tokens: Annotated[int, Meta(ge=-1)] | None = None
    max_completion_tokens: Annotated[int, Meta(ge=-1)] | None = None
    temperature: Annotated[float, Meta(ge=0)] | None = None
    top_p: float | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    n: Annotated[int, Meta(ge=1, le=64)] | None = None
    logit_bias: dict[str, float] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    response_format: dict[str, Any] | None = None
    tools: list[Any] | None = None
    tool_choice: str | dict[str, Any] | None = None
    functions: list[Any] | None = None
    function_call: str | dict[str, Any] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    top_k: Annotated[int, Meta(ge=-1)] | None = None
    min_p: float | None = None
    typical_p: float | None = None
    repetition_penalty: float | None = None
    repeat_penalty: float | None = None
    xtc_probability: float | None = None
    xtc_threshold: float | None = None
    no_repeat_ngram_size: Count | None = None
    min_tokens: Count | None = None
    ignore_eos: bool | None = None
    stop_token_ids: list[Count] | None = None
    bad_words: list[str] | None = None
    json_schema: dict[str, Any] | None = None
    regex: str | None = None
    guided_json: dict[str, Any] | str | None = None
    guided_regex: str | None = None
    guided_choice: list[str] | None = None
    structured_outputs: dict[str, Any] | None = None
    continue_final_message: bool | None = None
    add_generation_prompt: bool | None = None
    return_token_ids: bool | None = None
    keep_alive: Any = None

    def place(self, message: int) -> str:
        """Where a message stands in what the client sent."""
        return in_messages(message)


CHANGING: Mapping[str, tuple[Any, ...]] = {
    "audio": (),
    "prompt": (),
    "grammar": ("",),
    "guided_grammar": (),
    "guided_whitespace_pattern": (),
    "web_search_options": (),
    "moderation": (),
    "chat_template": (),
    "documents": ([],),
    "logits_processors": ([],),
    "mm_processor_kwargs": ({},),
    "truncate_prompt_tokens": (),
    "prompt_logprobs": (0,),
    "use_beam_search": (False,),
    "num_beams": (1,),
    "best_of": (1,),
    "echo": (False,),
    "mirostat": (0,),
    "mirostat_mode": (0,),
    "dry_multiplier": (0,),
    "dynatemp_range": (0,),
    "top_n_sigma": (-1, 0),
    "lora": ([],),
    "image_data": ([],),
}
"""Fields that are not supported, and the values with which they ask for nothing; nor does null."""


def read_json(body: bytes) -> dict[str, Any]:
    """A body as an object.

    Raises:
        RefusalError: it is none.
    """
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RefusalError(f"the body is not valid JSON: {error}") from None
    except RecursionError:
        raise RefusalError("the body is nested too deeply") from None
    if not isinstance(value, dict):
        raise RefusalError(f"the body is {_kind(value)}, expected a JSON object")
    return value


def read_chat(body: bytes) -> ChatRequest:
    """A chat's request.

    Raises:
        RefusalError: malformed, a value of another type or outside its interval, or a field that is not supported.
    """
    given = read_json(body)
    refuse_changing(given, CHANGING)
    modalities = given.get("modalities")
    if modalities is not None and modalities != ["text"]:
        raise unsupported("modalities", "answers are text: expected modalities to be ['text'], or left out")
    request = checked(given, ChatRequest)
    if request.top_logprobs is not None and not request.logprobs:
        raise RefusalError("top_logprobs asks for logprobs to be true", param="top_logprobs")
    return request


def refuse_changing(given: Mapping[str, Any], fields: Mapping[str, tuple[Any, ...]]) -> None:
    """Refuse fields that would change the answer and are not supported."""
    for name, neutral in fields.items():
        value = given.get(name)
        if value is not None and value not in neutral:
            raise unsupported(name, f"{name} is not supported: leave it out")


def checked(given: Mapping[str, Any], kind: type[_T]) -> _T:
    """The fields in their types.

    Raises:
        RefusalError: names the place.
    """
    try:
        return msgspec.convert(given, kind)
    except msgspec.ValidationError as error:
        text = str(error)
        what, _, place = text.rpartition(" - at `$")
        if not what:
            missing = re.search(r"required field `(\w+)`", text)
            raise RefusalError(text, param=missing[1] if missing else None) from None
        param = place.rstrip("`").lstrip(".")
        raise RefusalError(f"{param}: {what[0].lower()}{what[1:]}", param=param or None) from None


def _kind(value: object) -> str:
    names = {list: "a list", str: "a text", bool: "true or false", int: "a number", float: "a number"}
    return names.get(type(value), "null")
