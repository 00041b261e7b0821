"""What bundles are asked: prompts with and without images, short and long, and what is asked after their answers.

Enters: a loaded model. Leaves: prompts in the Hugging Face form, with their images. pebble knows the images, a text
model the texts; both are asked all of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pebble.heldout import FOLDER
from pebble.heldout import QUESTIONS as HELD_OUT
from pebble.records import load_records, to_messages
from pumice.model import Model
from pumice.scheduler.request import Request

PASSAGES = Path(__file__).parents[1] / "real" / "prose.txt"
LONGEST = 900
"""Characters of a passage."""
TASKS = (
    "What is the capital of Portugal, and why is it on a river?",
    "Write a Python function that tells whether a word is a palindrome, with two examples.",
    "Name eight rivers in Europe and a city on each.",
    "What is 23 plus 48? Explain each step.",
)
NEXT = "And what else could one say about it?"


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """Messages, and the images of their places."""

    messages: list[dict[str, Any]]
    images: tuple[Path, ...] = ()

    def followed(self, answer: str) -> Prompt:
        """The next turn: what was answered, and another question."""
        said = {"role": "assistant", "content": [{"type": "text", "text": answer}]}
        return Prompt(messages=[*self.messages, said, question(NEXT)], images=self.images)

    def request(self, model: Model, tokens: int) -> Request:
        """A request for it with an answer of at most so many tokens; its strategy is the caller's to replace."""
        options = model.pipeline.options({"max_new_tokens": tokens})
        return model.pipeline.request(self.messages, list(self.images), options, started=0.0)


def prompts() -> list[Prompt]:
    """Four about images, four short ones, and one about each passage."""
    passages = PASSAGES.read_text(encoding="utf-8").split("* * *")
    texts = [*TASKS, *(f"What is this about?\n\n{passage.strip()[:LONGEST]}" for passage in passages)]
    return [*about_images(4), *(Prompt(messages=[question(text)]) for text in texts)]


def about_images(count: int) -> list[Prompt]:
    """Of pebble's held-out questions, from beginning to end."""
    records = load_records(HELD_OUT)
    chosen = records[:: max(1, len(records) // count)][:count]
    return [
        Prompt(messages=to_messages(record), images=tuple(FOLDER / name for name in record.images))
        for record in chosen
    ]


def question(text: str) -> dict[str, Any]:
    """A user's message."""
    return {"role": "user", "content": [{"type": "text", "text": text}]}
