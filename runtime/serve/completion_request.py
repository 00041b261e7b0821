"""What a client of OpenAI's legacy completions sends, checked for its form.

Enters: a body. Leaves: a `CompletionRequest`: what a chat may ask for, with prompts in place of messages. A prompt is
taken as it stands, as pumice's raw prompts are: no chat template, and special tokens written in it are special.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, TypeAlias

import msgspec
from msgspec import Meta

from pumice.serve.refusals import RefusalError
from pumice.serve.wire import CHANGING, ChatRequest, Message, checked, read_json, refuse_changing

RawPrompt: TypeAlias = "str | list[int]"
"""A text, or token ids."""

_MOST_PROMPTS = 64
_MAX_TOKENS = 16
"""OpenAI's, where nothing is said."""


class CompletionRequest(ChatRequest):
    """`POST /v1/completions`."""

    messages: list[Message] = msgspec.field(default_factory=list)
    prompts: list[Any] = msgspec.field(default_factory=list)
    echo: bool | None = None
    add_special_tokens: bool | None = None


class _Own(msgspec.Struct):
    """Fields that mean something else than a chat's."""

    logprobs: Annotated[int, Meta(ge=0, le=5)] | None = None
    echo: bool | None = None


_CHANGING: Mapping[str, tuple[Any, ...]] = {
    **{name: neutral for name, neutral in CHANGING.items() if name not in ("prompt", "echo")},
    "suffix": ("",),
    "messages": ([],),
    "top_logprobs": (),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "continue_final_message": (False,),
    "add_generation_prompt": (False,),
    "images": ([],),
    "multi_modal_data": ({},),
    "prompt_embeds": (),
}


def read_completion(body: bytes) -> CompletionRequest:
    """A completion's request.

    Raises:
        RefusalError: malformed, a value of another type or outside its interval, or a field that is not supported.
    """
    given = read_json(body)
    refuse_changing(given, _CHANGING)
    own = checked({name: given[name] for name in ("logprobs", "echo") if name in given}, _Own)
    if own.echo and own.logprobs is not None:
        raise RefusalError(
            "echo with logprobs is not supported: a prompt's own tokens are not scored, leave one of them out",
            param="logprobs",
            code="unsupported_value",
        )
    fields = {name: value for name, value in given.items() if name not in ("prompt", "prompts", "messages")}
    if fields.get("max_tokens") is None and fields.get("max_completion_tokens") is None:
        fields["max_tokens"] = _MAX_TOKENS
    fields |= {
        "prompts": _prompts(given.get("prompt")),
        "logprobs": own.logprobs is not None,
        "top_logprobs": own.logprobs,
    }
    return checked(fields, CompletionRequest)


def _prompts(value: Any) -> list[RawPrompt]:
    """One prompt or several."""
    several = value if isinstance(value, list) and value and not _is_ids(value) else [value]
    if len(several) > _MOST_PROMPTS:
        raise RefusalError(
            f"the request has {len(several)} prompts, at most {_MOST_PROMPTS} are accepted", param="prompt"
        )
    for i, prompt in enumerate(several):
        if not isinstance(prompt, str) and not _is_ids(prompt):
            place = "prompt" if several is not value else f"prompt[{i}]"
            raise RefusalError(f"{place} is no text, nor a list of token ids", param=place)
    return several


def _is_ids(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(type(one) is int and one >= 0 for one in value)
