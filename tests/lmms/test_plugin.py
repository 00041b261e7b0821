"""The plug-in in lmms-eval itself: `make lmms` installs it, and runs this. Elsewhere there is nothing to test against.

lmms-eval finds the class by the entry point, makes it, and gives it requests of tasks (`tasks/`) that ask pebble's
held-out questions. What comes back is held against `pumice.Model`, asked directly.
"""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import pumice

pytest.importorskip("lmms_eval", reason="make lmms installs it, in an environment of its own")

from lmms_eval.api.instance import GenerationResult, Instance, unwrap_generation_output
from lmms_eval.api.model import lmms
from lmms_eval.caching.response_cache import ResponseCache
from lmms_eval.evaluator import simple_evaluate
from lmms_eval.models import get_model
from lmms_eval.tasks import TaskManager, get_task_dict
from loguru import logger

ROOT = Path(__file__).parents[2]
TASKS = Path(__file__).parent / "tasks"
HELDOUT = ROOT / "pebble" / "heldout"
QUESTIONS = [json.loads(line) for line in (HELDOUT / "questions.jsonl").read_text().splitlines()]
OPTIONS = {"max_new_tokens": 64, "do_sample": False, "stop_strings": ["USER:"]}
ONE = next(i for i, doc in enumerate(QUESTIONS) if len(doc["images"]) == 1)
TWO = next(i for i, doc in enumerate(QUESTIONS) if len(doc["images"]) == 2)


@pytest.fixture(scope="module")
def direct(pebble_bundle: Path) -> pumice.Model:
    return pumice.load(pebble_bundle, device="cpu", threads=1)


@pytest.fixture(params=["chat", "simple"])
def kind(request: pytest.FixtureRequest) -> Any:
    return request.param


def made(bundle: Path, kind: str, more: str = "", **settings: Any) -> Any:
    """As lmms-eval makes it of `--model_args`."""
    cls = get_model("pumice", force_simple=kind == "simple")
    return cls.create_from_arg_string(f"pretrained={bundle},threads=1{more}", {"device": "cpu", **settings})


@pytest.fixture(autouse=True)
def in_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the tasks' files are."""
    monkeypatch.chdir(ROOT)


@cache
def tasks() -> TaskManager:
    """Once: it reads the files of a thousand tasks."""
    return TaskManager("ERROR", include_path=str(TASKS), model_name="pumice")


def requests_of(model: Any, name: str, limit: int | None = None, **arguments: Any) -> list[Instance]:
    """A task's requests, as lmms-eval's evaluator has them made for this kind of model."""
    task = get_task_dict([name], tasks(), "simple" if model.is_simple else "chat")[name]
    model.task_dict[name] = task.dataset
    task.set_config(key="num_fewshot", value=0)
    if arguments:
        task.set_config(key="generation_kwargs", value=arguments, update=True)
    task.build_all_requests(
        limit=limit, rank=0, world_size=1, cache_requests=False, rewrite_requests_cache=False,
        system_instruction=None, apply_chat_template=False, fewshot_as_multiturn=False, chat_template=None,
        tokenizer_name="",
    )  # fmt: skip
    return task.instances


def pick(requests: list[Instance], *numbers: int) -> list[Instance]:
    return [request for number in numbers for request in requests if request.doc_id == number]


def answer(model: pumice.Model, number: int, **options: Any) -> pumice.Generation:
    doc = QUESTIONS[number]
    return model.generate(
        doc["turns"][0]["question"], [HELDOUT / name for name in doc["images"]], **OPTIONS | options
    )


def test_the_entry_point_gives_subclasses_of_the_real_base_class() -> None:
    chat, simple = get_model("pumice"), get_model("pumice", force_simple=True)
    assert (chat.__name__, chat.is_simple) == ("Pumice", False)
    assert (simple.__name__, simple.is_simple) == ("PumiceSimple", True)
    assert all(issubclass(cls, lmms) and not cls.__abstractmethods__ for cls in (chat, simple))


def test_answers_of_one_image_and_of_two(kind: str, pebble_bundle: Path, direct: pumice.Model) -> None:
    model = made(pebble_bundle, kind, batch_size=4)
    numbers = [TWO, ONE, ONE + 3, TWO + 2, ONE + 1]
    results = model.generate_until(pick(requests_of(model, "pebble_heldout"), *numbers))
    for number, result in zip(numbers, results, strict=True):
        expected = answer(direct, number)
        assert isinstance(result, GenerationResult)
        text, counts = unwrap_generation_output(result)
        assert text == expected.text
        assert text
        assert counts.output_tokens == len(expected.token_ids)
        assert counts.input_tokens == expected.usage.prompt_tokens
    assert (model.rank, model.world_size, model.device) == (0, 1, "cpu")


def test_all_arguments_reach_the_engine(kind: str, pebble_bundle: Path, direct: pumice.Model) -> None:
    model = made(pebble_bundle, kind)
    plain = answer(direct, ONE).text
    word = plain.split()[2]
    for arguments, options in (
        ({"until": [word]}, {"stop_strings": [word]}),
        ({"max_new_tokens": 3}, {"max_new_tokens": 3}),
        ({"num_beams": 9}, {"num_beams": 9}),
    ):
        (request,) = pick(requests_of(model, "pebble_heldout", ONE + 1, **arguments), ONE)
        assert model.generate_until([request])[0].text == answer(direct, ONE, **options).text
    drawn = {"temperature": 5.0, "top_p": 0.99, "do_sample": True}
    requests = pick(requests_of(model, "pebble_heldout", ONE + 1, **drawn), ONE) * 2
    texts = [result.text for result in model.generate_until(requests)]
    assert texts[0] != texts[1] != plain  # the same request twice, as --repeats has it
    assert [result.text for result in model.generate_until(requests)] == texts
    other = made(pebble_bundle, kind, ",seed=1")
    assert [
        r.text
        for r in other.generate_until(pick(requests_of(other, "pebble_heldout", ONE + 1, **drawn), ONE))
    ] != texts[:1]


def test_no_image(pebble_bundle: Path, direct: pumice.Model) -> None:
    model = made(pebble_bundle, "simple")
    model.task_dict["t"] = {"test": [{}]}
    request = Instance(
        request_type="generate_until",
        arguments=("What do you see?", {"max_new_tokens": 8}, lambda _: None, 0, "t", "test"),
        idx=0,
        metadata={"task": "t", "doc_id": 0, "repeats": 1},
    )
    expected = direct.generate("What do you see?", max_new_tokens=8, do_sample=False)
    assert model.generate_until([request])[0].text == expected.text


def test_rounds(kind: str, pebble_bundle: Path, direct: pumice.Model) -> None:
    model = made(pebble_bundle, kind)
    requests = requests_of(model, "pebble_rounds", 3)
    results = model.generate_until_multi_round(requests)
    docs = [doc for doc in QUESTIONS if doc["kind"] == "follow-up: another"][:3]
    for doc, result in zip(docs, results, strict=True):
        images = [HELDOUT / name for name in doc["images"]]
        assert result == [direct.generate(turn["question"], images, **OPTIONS).text for turn in doc["turns"]]
        assert unwrap_generation_output(result) == (result, None)


def test_likelihoods_choose(pebble_bundle: Path) -> None:
    model = made(pebble_bundle, "simple")
    requests = requests_of(model, "pebble_choices", 6)
    losses = model.loglikelihood(requests)
    docs = [doc for doc in QUESTIONS if doc["kind"] == "exists"][:6]
    assert len(losses) == 2 * len(docs)
    for doc, yes, no in zip(docs, losses[::2], losses[1::2], strict=True):
        right, wrong = (yes, no) if doc["turns"][0]["answer"] == "Yes." else (no, yes)
        assert right[0] < wrong[0]
        assert (right[1], wrong[1]) == (True, False)


def test_a_document_that_fails_is_told_and_empty(pebble_bundle: Path) -> None:
    told: list[str] = []
    sink = logger.add(lambda message: told.append(str(message)), level="ERROR")
    model = made(pebble_bundle, "simple", ",context_length=100")
    model.task_dict["t"] = {"test": [{"image": Image.new("RGB", (50, 50), "red")}, {"image": None}]}
    requests = [
        Instance(
            request_type="generate_until",
            arguments=("What do you see? " * (1 if i else 300), {}, lambda doc: doc["image"], i, "t", "test"),
            idx=0,
            metadata={"task": "t", "doc_id": i, "repeats": 1},
        )
        for i in range(2)
    ]
    results = model.generate_until(requests)
    assert results[0].text == ""
    assert results[1].text
    assert "t/test/0: not answered: the prompt has" in "".join(told)
    assert "1 of 2 requests have an empty answer" in "".join(told)
    with pytest.raises(pumice.GenerationError, match="none of 2 requests could be answered: the prompt has"):
        model.generate_until([requests[0]] * 2)
    (request,) = pick(
        requests_of(model, "pebble_heldout", ONE + 1, top_p=7, temperature=1, do_sample=True), ONE
    )
    with pytest.raises(pumice.UsageError, match="top_p is 7"):
        model.generate_until([request])
    logger.remove(sink)


def test_lmms_evals_own_cache_answers_the_second_time(
    kind: str, pebble_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = made(pebble_bundle, kind)
    requests = pick(requests_of(model, "pebble_heldout", ONE + 3), ONE, ONE + 1)
    cache = ResponseCache(str(tmp_path / "cache.db"), str(tmp_path / "audit.jsonl"))
    first = cache.execute(model, "generate_until", requests)
    monkeypatch.setattr(model, "generate_until", lambda _: pytest.fail("the cache has them"))
    second = cache.execute(model, "generate_until", requests)
    assert [unwrap_generation_output(one)[0] for one in first] == [
        unwrap_generation_output(one)[0] for one in second
    ]


def test_an_evaluation_gives_the_share_of_right_answers(
    kind: str, pebble_bundle: Path, direct: pumice.Model
) -> None:
    results = simple_evaluate(
        model="pumice",
        model_args=f"pretrained={pebble_bundle},threads=1",
        tasks=["pebble_heldout"],
        task_manager=tasks(),
        limit=10,
        device="cpu",
        force_simple=kind == "simple",
        bootstrap_iters=0,
    )
    right = [answer(direct, i).text.strip() == QUESTIONS[i]["turns"][0]["answer"] for i in range(10)]
    assert results["results"]["pebble_heldout"]["right,none"] == sum(right) / 10
    assert sum(right) >= 7


def test_on_the_command_line(pebble_bundle: Path, tmp_path: Path) -> None:
    command = [
        sys.executable, "-m", "lmms_eval", "--model", "pumice", "--model_args",
        f"pretrained={pebble_bundle},threads=1", "--tasks", "pebble_heldout", "--include_path", str(TASKS),
        "--limit", "4", "--output_path", str(tmp_path),
    ]  # fmt: skip
    ran = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert ran.returncode == 0, ran.stderr
    assert "|pebble_heldout|" in ran.stdout
    (results,) = tmp_path.rglob("*_results.json")
    assert json.loads(results.read_text())["results"]["pebble_heldout"]["right,none"] == 1.0
