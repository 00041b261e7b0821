"""The classes that lmms-eval makes: its base class on one side, a loaded bundle and an engine on the other.

Enters: `Instance`s, whose arguments have the form of lmms-eval's chat models or of its simple ones. Leaves: texts with
their counts of tokens, losses, and rounds of texts, in the order of the requests. Requests of a call are answered
together, by one engine.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

from lmms_eval.api.instance import GenerationResult, TokenCounts
from lmms_eval.api.model import lmms
from lmms_eval.models.model_utils.gen_metrics import log_metrics
from loguru import logger
from tqdm import tqdm

from pumice.bulk.item import BatchItem, seed_of
from pumice.bulk.record import Record, failed
from pumice.bulk.window import answer_all
from pumice.engine import Engine
from pumice.errors import GenerationError, PumiceError, UsageError
from pumice.lmms.arguments import to_options
from pumice.lmms.likelihood import Scorer
from pumice.lmms.requests import ChatRequest, Scored, SimpleRequest, Turn, scored
from pumice.loading import load

SLOTS = 8
"""Answers at a time, where nobody says."""


class Pumice(lmms):
    """A bundle as a chat model of lmms-eval's: `--model_args pretrained=BUNDLE,threads=8`.

    Args:
        pretrained: the bundle's folder.
        slots: answers at a time; by default lmms-eval's batch size if it is above 1, else 8. Beams may ask for more.
        system_prompt: a system prompt for every document, or a file that holds it.
        seed: what sampled answers are drawn by, with a document's own name.
        batch_size, max_batch_size, device: lmms-eval's; `cuda:0` is `cuda`.
        load_options: `threads`, `context_length` and others of `pumice.load`.
    """

    is_simple = False
    request: ClassVar[type[ChatRequest | SimpleRequest]] = ChatRequest

    def __init__(
        self,
        pretrained: str,
        *,
        slots: int | None = None,
        system_prompt: str | None = None,
        seed: int = 0,
        batch_size: int | str | None = None,
        max_batch_size: int | None = None,  # noqa: ARG002  # the engine has no batch size to search for
        device: str | None = None,
        **load_options: Any,
    ) -> None:
        super().__init__()
        wanted = str(batch_size)
        self._slots = slots or (int(wanted) if wanted.isdigit() and int(wanted) > 1 else SLOTS)
        self._seed = seed
        self._system = self._resolve_system_prompt(system_prompt) if system_prompt else None
        self.model = load(pretrained, device=(device or "auto").partition(":")[0], **load_options)
        if self.model.manifest.chat.template_file is None:
            raise UsageError(
                f"{pretrained} has no chat template, which questions of tasks need: export it from a checkpoint that "
                "has one"
            )
        self._told: set[str] = set()

    @property
    def device(self) -> str:
        """Where lmms-eval may put its own tensors."""
        return "cpu"

    def generate_until(self, requests: Sequence[Any]) -> list[GenerationResult]:
        """An answer to each; those that cannot be given are empty, and told."""
        asked = [self.request(request.args, self.task_dict) for request in requests]
        records = self._answers(asked, [partial(one.asked, self._system) for one in asked])
        for one, record in zip(asked, records, strict=True):
            self.cache_hook.add_partial(
                "generate_until", (one.context, dict(one.arguments)), record.text or ""
            )
        return [
            GenerationResult(
                text=record.text or "",
                token_counts=TokenCounts(
                    input_tokens=record.prompt_tokens, output_tokens=record.completion_tokens
                ),
            )
            for record in records
        ]

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[list[str]]:
        """The answers of all rounds to each; a round of all documents is answered together."""
        asked = [self.request(request.args, self.task_dict) for request in requests]
        answers: list[list[str]] = [[] for _ in asked]
        going = list(range(len(asked)))
        while going:
            turns = {
                i: turn for i in going if (turn := asked[i].next_round(answers[i], self._system)) is not None
            }
            going = list(turns)
            records = self._answers([asked[i] for i in going], [turns[i] for i in going])
            for i, record in zip(going, records, strict=True):
                answers[i].append(record.text or "")
        return answers

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """(mean of −log p over the answer's tokens, whether greedy decoding gives it) of each.

        lmms-eval's tasks take the choice of the least first number, whatever its base class says.
        """
        scorer, results = Scorer(self.model), []
        for request in tqdm(requests, disable=self.rank != 0, desc="pumice scores"):
            one: Scored = scored(request.args, self.task_dict, self._system)
            try:
                found = scorer.score(one.asked(), one.answer)
            except PumiceError as error:
                logger.error(f"{one.name}: not scored: {error}")
                results.append((float("inf"), False))
            else:
                results.append((found.loss, found.greedy))
                self.cache_hook.add_partial("loglikelihood", (one.context, one.answer), results[-1])
        return results

    def _answers(
        self, requests: Sequence[ChatRequest | SimpleRequest], asked: Sequence[Turn]
    ) -> list[Record]:
        """Records, in order.

        Raises:
            UsageError: a task's arguments that `generate` does not take.
            GenerationError: not one of several requests could be answered.
        """
        if not requests:
            return []
        options = [self._options(request) for request in requests]
        slots = max(self._slots, *(one["num_beams"] for one in options))
        started, records = time.perf_counter(), []
        with Engine(self.model, slots=slots, max_queue=2 * slots) as engine:
            items = self._items(requests, asked, options)
            for record in tqdm(
                answer_all(engine, items, in_flight=2 * slots),
                total=len(requests),
                disable=self.rank != 0,
                desc="pumice answers",
            ):
                if record.error is not None:
                    logger.error(f"{requests[record.index].name}: not answered: {record.error.message}")
                records.append(record)
        failures = [record.error for record in records if record.error is not None]
        if failures and len(failures) == len(records) > 1:
            raise GenerationError(f"none of {len(records)} requests could be answered: {failures[0].message}")
        if failures:
            logger.error(f"{len(failures)} of {len(records)} requests have an empty answer, for they failed")
        _log_speed(records, time.perf_counter() - started, self.rank)
        return records

    def _items(
        self,
        requests: Sequence[ChatRequest | SimpleRequest],
        asked: Sequence[Turn],
        options: Sequence[Mapping[str, Any]],
    ) -> Iterator[BatchItem | Record]:
        """Items as the engine has room for them: images of few documents are in memory at a time."""
        times: Counter[str] = Counter()
        for index, (request, ask, chosen) in enumerate(zip(requests, asked, options, strict=True)):
            drawn = {"seed": seed_of(self._seed, f"{request.name}/{times[request.name]}")}
            times[request.name] += 1
            try:
                told = ask()
            except PumiceError as error:
                yield failed(index, request.name, error)
                continue
            yield BatchItem(
                index=index,
                id=request.name,
                prompt=told.messages,
                images=told.images,
                raw=False,
                options={**(drawn if chosen["do_sample"] else {}), **chosen},
            )

    def _options(self, request: ChatRequest | SimpleRequest) -> dict[str, Any]:
        """A request's options, checked; what is passed over is told once."""
        options, idle = to_options(request.arguments, self.model.context_length)
        self.model.options(**options)
        for name in set(idle) - self._told:
            self._told.add(name)
            logger.warning(f"{name} is passed over: it is no option of pumice's (docs/lmms-eval.md)")
        return options


class PumiceSimple(Pumice):
    """The same for tasks in the form of lmms-eval's simple models: `--force_simple`; the only one with choices."""

    is_simple = True
    request = SimpleRequest


def _log_speed(records: Sequence[Record], seconds: float, rank: int) -> None:
    """Into lmms-eval's own summary."""
    tokens = sum(record.completion_tokens or 0 for record in records)
    log_metrics(
        total_elapsed_time=seconds,
        total_gen_tokens=tokens,
        avg_speed=tokens / seconds if seconds else 0.0,
        additional_metrics={"rank": rank},
    )
