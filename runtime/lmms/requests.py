"""The arguments of a request, in the two forms that lmms-eval has.

Enters: `Instance.args`, and the documents of all tasks. Leaves: what is asked, in one round or in several, and what
answer is scored. Documents are read when their turn comes: they hold images.

    chat       (context, doc_to_messages, arguments, document, task, split)
    simple     (context, arguments, doc_to_visual, document, task, split)
    in rounds  (context, arguments, doc_to_visual, doc_to_text, document, task, split), simple; chat as above
    scored     (context, answer | doc_to_target, doc_to_visual, document, task, split), or (context, answer)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pumice.lmms.documents import Asked, from_context, from_messages

Documents = Mapping[str, Mapping[str, Sequence[Any]]]
"""By task and split."""
Turn = Callable[[], Asked]


class ChatRequest:
    """Of a task that writes messages."""

    def __init__(self, args: tuple[Any, ...], documents: Documents) -> None:
        self.context, self._write, arguments, number, task, split = args
        self.arguments: Mapping[str, Any] = arguments or {}
        self.name = f"{task}/{split}/{number}"
        self._document: Callable[[], Any] = lambda: documents[task][split][number]
        self._info: Any = None

    def asked(self, system: str | None) -> Asked:
        """What is asked in the first round."""
        return from_messages(self._write(self._document()), system)

    def next_round(self, answers: list[str], system: str | None) -> Turn | None:
        """What is asked after these answers; None at the end."""
        if not answers:
            return lambda: self.asked(system)
        told = self._write(
            self._document(),
            round_idx=len(answers),
            previous_output=list(answers),
            previous_round_info=self._info,
        )
        if not (isinstance(told, tuple) and len(told) == 4):  # a task of one round
            return None
        messages, ended, _, self._info = told
        return None if ended else lambda: from_messages(messages, system)


class SimpleRequest:
    """Of a task that has a context, and says what there is to see."""

    def __init__(self, args: tuple[Any, ...], documents: Documents) -> None:
        self.context, arguments, self._see, *text, number, task, split = args
        self._text: Callable[..., Any] | None = text[0] if text else None
        self.arguments: Mapping[str, Any] = arguments or {}
        self.name = f"{task}/{split}/{number}"
        self._document: Callable[[], Any] = lambda: documents[task][split][number]
        self._info: Any = None

    def asked(self, system: str | None) -> Asked:
        """What is asked in the first round."""
        return from_context(self.context, self._see(self._document()), system)

    def next_round(self, answers: list[str], system: str | None) -> Turn | None:
        """What is asked after these answers, which the task may change; None at the end."""
        if not answers:
            return lambda: self.asked(system)
        assert self._text is not None
        told = self._text(
            self._document(),
            previous_output=list(answers),
            round_idx=len(answers),
            previous_round_info=self._info,
        )
        visuals, context, ended, changed, self._info = told
        answers[:] = answers if changed is None else changed
        return None if ended else lambda: from_context(context, visuals, system)


@dataclass(frozen=True, kw_only=True)
class Scored:
    """A given answer, and what it is an answer to."""

    name: str
    context: str
    answer: str
    asked: Turn = field(repr=False)


def scored(args: tuple[Any, ...], documents: Documents, system: str | None) -> Scored:
    """Of a request for a likelihood."""
    if len(args) == 2:  # without a document: how likely an answer is in itself
        context, answer = args
        return Scored(
            name="no document",
            context=context,
            answer=answer,
            asked=lambda: from_context(context, None, system),
        )
    context, target, see, number, task, split = args
    document = documents[task][split][number]
    return Scored(
        name=f"{task}/{split}/{number}",
        context=context,
        answer=target(document) if callable(target) else target,
        asked=lambda: from_context(context, see(document) if see else None, system),
    )
