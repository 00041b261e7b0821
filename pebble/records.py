"""Question records: JSON lines in; messages and accuracy tables out. Knows no model, imports no torch."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

Messages = list[dict[str, Any]]
Answer = Callable[[Messages, list[Path]], str]
AnswerAll = Callable[[list[tuple[Messages, list[Path]]]], list[str]]


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One question with the one answer that counts as right."""

    question: str
    answer: str


@dataclass(frozen=True, kw_only=True)
class Record:
    """One line of `questions.jsonl`: `{"id", "kind", "images": ["x.png"], "turns": [{"question", "answer"}]}`.

    `images` are file names beside the JSON lines. Only the last answer is scored; earlier ones are history.
    """

    id: str
    kind: str
    images: tuple[str, ...]
    turns: tuple[Turn, ...]

    @property
    def answer(self) -> str:
        return self.turns[-1].answer


@dataclass(frozen=True, kw_only=True)
class Row:
    """Accuracy of one kind of question."""

    kind: str
    right: int
    asked: int

    @property
    def accuracy(self) -> float:
        return self.right / self.asked


@dataclass(frozen=True, kw_only=True)
class Table:
    """Exact-match accuracy per kind, and what went wrong: (record, given answer)."""

    rows: tuple[Row, ...]
    wrong: tuple[tuple[Record, str], ...]

    @property
    def total(self) -> Row:
        return Row(
            kind="all", right=sum(row.right for row in self.rows), asked=sum(row.asked for row in self.rows)
        )


def load_records(path: Path | str) -> list[Record]:
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    return [_record(json.loads(line)) for line in lines if line.strip()]


def _record(line: dict[str, Any]) -> Record:
    return Record(
        id=line["id"],
        kind=line["kind"],
        images=tuple(line["images"]),
        turns=tuple(Turn(question=turn["question"], answer=turn["answer"]) for turn in line["turns"]),
    )


def save_records(path: Path, records: Iterable[Record]) -> None:
    path.write_text(
        "".join(json.dumps(asdict(record), ensure_ascii=False) + "\n" for record in records), encoding="utf-8"
    )


def to_messages(record: Record) -> Messages:
    """The record as Hugging Face messages: images first, history answered, the last question open."""
    messages: Messages = []
    for i, turn in enumerate(record.turns):
        images = [{"type": "image"}] * len(record.images) if i == 0 else []
        messages.append({"role": "user", "content": [*images, {"type": "text", "text": turn.question}]})
        messages.append({"role": "assistant", "content": [{"type": "text", "text": turn.answer}]})
    return messages[:-1]


def score(records: Sequence[Record], answer: Answer, *, folder: Path) -> Table:
    """Ask `answer` every record, one at a time, with image paths under `folder`."""
    return score_all(
        records, lambda asked: [answer(messages, images) for messages, images in asked], folder=folder
    )


def score_all(records: Sequence[Record], answer_all: AnswerAll, *, folder: Path) -> Table:
    """As `score`, for a model that takes all records at once and batches them as it likes."""
    given = answer_all(
        [(to_messages(record), [folder / name for name in record.images]) for record in records]
    )
    asked, right = Counter[str](), Counter[str]()
    wrong = []
    for record, text in zip(records, given, strict=True):
        asked[record.kind] += 1
        if text.strip() == record.answer:
            right[record.kind] += 1
        else:
            wrong.append((record, text.strip()))
    rows = tuple(Row(kind=kind, right=right[kind], asked=asked[kind]) for kind in sorted(asked))
    return Table(rows=rows, wrong=tuple(wrong))
