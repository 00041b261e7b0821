"""A checked request becomes what the engine is asked.

Enters: OpenAI's fields, and the model that is to answer. Leaves: a `Question`: a prompt whose images were looked at by
their heads, which fits into the context, and the engine's options.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pumice.errors import ContextLengthError
from pumice.serve.constraints import Constraint, constraint_of
from pumice.serve.conversation import Conversation, read_messages
from pumice.serve.refusals import RefusalError
from pumice.serve.wire import ChatRequest

if TYPE_CHECKING:
    from pumice.serve.loaded import Loaded

_TEMPLATE_TOKENS = 64
"""More than chat templates write around a message."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """What the engine is asked.

    `copies` are equal answers that are computed once; `beside` are questions of the same request, asked alike.
    """

    messages: Any
    """A raw prompt, text or token ids, where `options` say `raw`."""
    images: list[bytes]
    options: dict[str, Any]
    constraint: Constraint
    copies: int = 1
    beside: tuple[Question, ...] = ()


def question_of(
    request: ChatRequest, loaded: Loaded, most_images: int, fetched: Mapping[str, bytes] | None = None
) -> Question:
    """The question of a chat's request; may take a moment, so not for the event loop.

    `fetched` are images by their addresses.

    Raises:
        RefusalError, ContextLengthError, PumiceError: whatever is wrong with it that shows without decoding an image.
    """
    constraint = constraint_of(request)
    options = options_of(request, loaded) | constraint.options
    conversation = read_messages(request.messages, most_images, place=request.place, fetched=fetched)
    check_room(conversation, loaded, continued=bool(request.continue_final_message))
    copies = several(request, options, loaded)
    return Question(
        messages=conversation.messages,
        images=[image.data for image in conversation.images],
        options=options,
        constraint=constraint,
        copies=copies,
    )


def several(request: ChatRequest, options: dict[str, Any], loaded: Loaded) -> int:
    """How many times one answer is given; where several are drawn, `options` say so."""
    if (request.n or 1) > 1 and not options.get("do_sample", loaded.samples):
        return request.n or 1  # all are the most likely one
    if (request.n or 1) > 1:
        options["num_return_sequences"] = request.n
    return 1


def check_room(conversation: Conversation, loaded: Loaded, *, continued: bool = False) -> None:
    """Whether a prompt fits into the context, by its images' sizes and its texts.

    What fits for certain is not tokenised here: the engine does that, and each token of text is a byte at least.

    Raises:
        ContextLengthError: it does not. PromptError, ImageError: it cannot be counted.
    """
    builder = loaded.model.pipeline.builder
    sizes = [image.size for image in conversation.images]
    of_images = builder.count_images(sizes)
    if of_images >= loaded.context:
        raise ContextLengthError(
            f"{len(sizes)} images of the prompt have {of_images:,} tokens, and the context of {loaded.context:,} "
            "leaves no room for an answer: send fewer or smaller ones"
        )
    at_most = of_images + conversation.text_bytes + _TEMPLATE_TOKENS * (1 + len(conversation.messages))
    if at_most >= loaded.context:
        tokens = builder.count(conversation.messages, sizes, continue_final_message=continued)
        loaded.model.pipeline.room(tokens, 1, loaded.context)


def options_of(request: ChatRequest, loaded: Loaded) -> dict[str, Any]:
    """Options of the engine by its names; None is left to the model's defaults."""
    limit = request.max_completion_tokens if request.max_completion_tokens is not None else request.max_tokens
    whole = loaded.model.manifest.decoder.context_length
    penalty = request.repetition_penalty
    options: dict[str, Any] = {
        "max_new_tokens": whole if limit in (None, -1) else min(limit or 0, whole),
        "stop_strings": _stops(request.stop),
        "seed": _seed(request.seed),
        "logit_bias": request.logit_bias or None,
        "frequency_penalty": request.frequency_penalty,
        "presence_penalty": request.presence_penalty,
        "repetition_penalty": request.repeat_penalty if penalty is None else penalty,
        "no_repeat_ngram_size": request.no_repeat_ngram_size,
        "min_new_tokens": request.min_tokens or None,
        "logprobs": (request.top_logprobs or 0) if request.logprobs else None,
        "continue_final_message": request.continue_final_message,
        "add_generation_prompt": request.add_generation_prompt,
        "bad_words_ids": loaded.word_ids(request.bad_words or ()) or None,
        "eos_token_id": _ends(request, loaded),
    }
    options |= _sampling(request, loaded)
    if loaded.model.manifest.generation.num_beams not in (None, 1):
        options["num_beams"] = 1  # answers come as they grow
    return {name: value for name, value in options.items() if value is not None}


def _sampling(request: ChatRequest, loaded: Loaded) -> dict[str, Any]:
    """Whether tokens are drawn, and from which: said by a temperature, by another setting of the kind, or by `n`."""
    settings = {
        "top_p": request.top_p,
        "top_k": 0 if request.top_k == -1 else request.top_k,
        "min_p": request.min_p,
        "typical_p": request.typical_p,
        "xtc_probability": request.xtc_probability,
        "xtc_threshold": request.xtc_threshold,
    }
    neutral = {"top_p": 1, "top_k": 0, "min_p": 0, "typical_p": 1, "xtc_probability": 0}
    if request.temperature == 0:
        return {"do_sample": False}
    asked = any(value is not None and neutral.get(name, value) != value for name, value in settings.items())
    if request.temperature is None and not asked and (request.n or 1) == 1:
        return settings if loaded.samples else {}
    return {"do_sample": True, "temperature": request.temperature, **settings}


def _seed(seed: int | None) -> int | None:
    """llama.cpp's −1 is none; OpenAI's others below 0 are what they are in 64 bits."""
    if seed is None or seed == -1:
        return None
    if not -(2**63) <= seed < 2**64:
        raise RefusalError("seed is no number of 64 bits", param="seed")
    return seed % 2**64


def _stops(stop: str | list[str] | None) -> list[str] | None:
    """Texts that end the answer; an empty one ends nothing."""
    return [text for text in ([stop] if isinstance(stop, str) else stop or ()) if text] or None


def _ends(request: ChatRequest, loaded: Loaded) -> list[int] | None:
    if request.ignore_eos:
        return list(request.stop_token_ids or ())
    if not request.stop_token_ids:
        return None
    return [*loaded.model.manifest.tokens.eos_ids, *request.stop_token_ids]
