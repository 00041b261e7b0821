"""Answers in the form of OpenAI's legacy completions: a text completion, or its chunks.

Enters: generations, or pieces of them. Leaves: dicts that are sent as JSON.
"""

from __future__ import annotations

import codecs
import secrets
import time
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

from pumice.generation.strategy import Piece
from pumice.result import Generation, TokenLogprob, TokenLogprobs
from pumice.serve.openai_form import LEAST_LOGPROB, timings, usage

if TYPE_CHECKING:
    from pumice.serve.loaded import Loaded


class LegacyForm:
    """The form of one request's answers.

    `echoes` are what each prompt's answers begin with, `each` so many answers; `ends` are tokens that end one, and are
    no part of its text.
    """

    def __init__(
        self, loaded: Loaded, echoes: Sequence[str], each: int, ends: Collection[int], *, ids: bool = False
    ) -> None:
        self._loaded, self._echoes, self._each, self._ends, self._ids = loaded, echoes, each, ends, ids
        self._created = int(time.time())
        self._id = f"cmpl-{secrets.token_hex(12)}"
        self._offsets = [_Offset(len(echo)) for echo in echoes for _ in range(each)]

    def completion(self, results: Sequence[Generation]) -> dict[str, Any]:
        """The whole, not streamed."""
        choices = [
            self._choice(
                i,
                self._echo(i) + result.text,
                logprobs=self._logprobs(i, result.logprobs),
                finish=result.finish_reason,
                ids=result.token_ids,
            )
            for i, result in enumerate(results)
        ]
        return {**self._head(choices), "usage": self._usage(results), "timings": timings(results[0])}

    def first(self, index: int) -> dict[str, Any] | None:
        """The chunk of an answer's prompt, where it is to be echoed."""
        echo = self._echo(index)
        return self._head([self._choice(index, echo)]) if echo else None

    def chunk(self, piece: Piece) -> dict[str, Any] | None:
        """A chunk of text and tokens; None where there is nothing to show yet."""
        logprobs = self._logprobs(piece.index, piece.logprobs)
        if not piece.text and not (logprobs and logprobs["tokens"]) and not self._ids:
            return None
        choice = self._choice(piece.index, piece.text, logprobs=logprobs, ids=list(piece.token_ids))
        return self._head([choice])

    def last(self, index: int, result: Generation, *, timed: bool) -> dict[str, Any]:
        """The chunk that says why an answer has ended; `timed` ones say what it took."""
        chunk = self._head([self._choice(index, "", finish=result.finish_reason)])
        return {**chunk, "timings": timings(result)} if timed else chunk

    def usage(self, results: Sequence[Generation]) -> dict[str, Any]:
        """The chunk of counts, behind all others."""
        return {**self._head([]), "usage": self._usage(results), "timings": timings(results[0])}

    def _head(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self._id,
            "object": "text_completion",
            "created": self._created,
            "model": self._loaded.name,
            "system_fingerprint": self._loaded.fingerprint,
            "choices": choices,
        }

    def _choice(
        self,
        index: int,
        text: str,
        *,
        logprobs: dict[str, Any] | None = None,
        finish: str | None = None,
        ids: Sequence[int] = (),
    ) -> dict[str, Any]:
        choice = {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish}
        return choice | ({"token_ids": ids} if self._ids else {})

    def _echo(self, index: int) -> str:
        return self._echoes[index // self._each]

    def _usage(self, results: Sequence[Generation]) -> dict[str, Any]:
        """Counts of all prompts, each once, and of all answers."""
        groups = [usage(results[i : i + self._each]) for i in range(0, len(results), self._each)]
        return _added(groups)

    def _logprobs(self, index: int, tokens: Sequence[TokenLogprobs] | None) -> dict[str, Any] | None:
        if tokens is None:
            return None
        shown = [token for token in tokens if token.token_id not in self._ends]
        offset = self._offsets[index]
        return {
            "tokens": [self._name(token) for token in shown],
            "token_logprobs": [_finite(token) for token in shown],
            "top_logprobs": [self._top(token) for token in shown],
            "text_offset": [offset.of(self._bytes(token)) for token in shown],
        }

    def _top(self, token: TokenLogprobs) -> dict[str, float]:
        """The most likely ones, and the one that was chosen."""
        return {self._name(other): _finite(other) for other in reversed((*token.top, token))}

    def _name(self, token: TokenLogprob) -> str:
        """A token's text; of one that is no text its bytes, as OpenAI writes them."""
        data = self._bytes(token)
        try:
            return data.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)

    def _bytes(self, token: TokenLogprob) -> bytes:
        return self._loaded.model.pipeline.tokenizer.token_bytes(token.token_id)


class _Offset:
    """Where an answer's tokens begin, in characters of its text."""

    def __init__(self, start: int) -> None:
        self._characters = start
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def of(self, data: bytes) -> int:
        """Of the next token; the parts of a character all begin where it does."""
        begins = self._characters
        self._characters += len(self._decoder.decode(data))
        return begins


def _finite(token: TokenLogprob) -> float:
    return max(token.logprob, LEAST_LOGPROB)


def _added(counts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The sums of counts, and of those inside them."""
    first = counts[0]
    return {
        name: _added([each[name] for each in counts]) if isinstance(value, dict)
        else sum(each[name] for each in counts)
        for name, value in first.items()
    }  # fmt: skip
