"""Oracle: transformers' LLaVA in float32. Tolerances: greedy tokens and texts equal, logits within 2e-4."""

import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import pumice
from pumice.decoder.decoder import Decoder
from pumice.decoder.kv_cache import KVCache
from pumice.decoder.step import DecodeStep
from pumice.errors import ContextLengthError, GenerationError, ImageError, PromptError, UsageError
from pumice.model import Model
from pumice.sessions.runs import Cancellation

LOGIT_TOLERANCE = 2e-4
QUESTIONS = ("What is in this picture?", "How many shapes are there?", "Ünïcode 🙂 </s> <s>?")


@pytest.fixture(scope="session")
def model(pebble_bundle: Path) -> Model:
    return pumice.load(pebble_bundle, device="cpu", threads=1)


@pytest.fixture(scope="session")
def oracle(pebble_checkpoint: Path) -> Any:
    from transformers import AutoTokenizer, LlavaForConditionalGeneration

    class Oracle:
        def __init__(self) -> None:
            self.model = LlavaForConditionalGeneration.from_pretrained(
                pebble_checkpoint, dtype="float32"
            ).eval()
            self.tokenizer = AutoTokenizer.from_pretrained(pebble_checkpoint)

        def inputs(self, prepared: pumice.Prepared) -> dict[str, Any]:
            import torch

            ids = torch.from_numpy(prepared.input_ids)
            inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
            if len(prepared.pixel_values):
                inputs["pixel_values"] = torch.from_numpy(prepared.pixel_values)
            return inputs

        def tokens(self, prepared: pumice.Prepared, count: int) -> list[int]:
            out = self.model.generate(**self.inputs(prepared), max_new_tokens=count, do_sample=False)
            tokens: list[int] = out[0, prepared.tokens :].tolist()
            return tokens

        def logits(self, prepared: pumice.Prepared) -> np.ndarray:
            import torch

            with torch.no_grad():
                logits: np.ndarray = self.model(**self.inputs(prepared)).logits[0].numpy()
            return logits

    return Oracle()


def image(seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (40 + seed, 60, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.mark.export_extra
@pytest.mark.parametrize("question", QUESTIONS)
@pytest.mark.parametrize("count", [0, 1, 2])
def test_tokens_text_and_logits_are_those_of_transformers(
    model: Model, oracle: Any, question: str, count: int
) -> None:
    images = [image(i) for i in range(count)]
    prepared = model.prepare(question, images)
    expected = oracle.tokens(prepared, 24)
    result = model.generate(question, images, max_new_tokens=24)
    assert result.token_ids == expected
    assert result.text == oracle.tokenizer.decode(expected, skip_special_tokens=True)
    logits_TV = model.logits(question, images)
    assert logits_TV.dtype == np.float32
    assert logits_TV.shape == (prepared.tokens, model.manifest.decoder.vocab_size)
    assert np.abs(logits_TV - oracle.logits(prepared)).max() < LOGIT_TOLERANCE


@pytest.mark.export_extra
def test_raw_prompts(model: Model, oracle: Any) -> None:
    prompt = "USER: <image>\nWhat is in this picture? ASSISTANT:"
    expected = oracle.tokens(model.prepare(prompt, [image()], raw=True), 16)
    assert model.generate(prompt, [image()], raw=True, max_new_tokens=16).token_ids == expected


def test_a_stream_is_the_answer_in_pieces(model: Model) -> None:
    stream = model.stream(QUESTIONS[0], [image()], max_new_tokens=24)
    with pytest.raises(UsageError, match="has not ended"):
        _ = stream.result
    pieces = list(stream)
    whole = model.generate(QUESTIONS[0], [image()], max_new_tokens=24)
    assert "".join(pieces) == stream.result.text == whole.text
    assert stream.result.token_ids == whole.token_ids
    assert list(stream) == []


def test_counts_and_times(model: Model) -> None:
    result = model.generate(QUESTIONS[0], [image()], max_new_tokens=3)
    usage, timings = result.usage, result.timings
    assert usage.prompt_tokens == model.prepare(QUESTIONS[0], [image()]).tokens
    assert usage.image_tokens == model.manifest.image_tokens.per_image
    assert usage.completion_tokens == len(result.token_ids) <= 3
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    parts = timings.preprocess + timings.vision + timings.prefill
    assert 0 < parts <= timings.time_to_first_token
    assert timings.load > 0
    assert timings.tokens_per_second > 0


def force(monkeypatch: pytest.MonkeyPatch, *tokens: int) -> None:
    """Let the sampler give these tokens, the last one for ever."""
    given = list(tokens)
    use_sampler(monkeypatch, lambda logits, rng: given.pop(0) if len(given) > 1 else given[0])


def use_sampler(monkeypatch: pytest.MonkeyPatch, sampler: Callable[[Any, Any], int]) -> None:
    monkeypatch.setattr("pumice.generation.make.make_sampler", lambda options: sampler)


def test_the_end_token_stops_an_answer_and_is_no_text(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    end = model.manifest.tokens.eos_ids[0]
    force(monkeypatch, 300, end, 301)
    result = model.generate("Hi")
    assert result.token_ids == [300, end]
    assert result.finish_reason == "stop"
    assert result.text == model.pipeline.tokenizer.decode([300])


def test_the_limit_ends_an_answer(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    force(monkeypatch, 300)
    result = model.generate("Hi", max_new_tokens=5)
    assert result.token_ids == [300] * 5
    assert result.finish_reason == "length"
    assert len(model.generate("Hi").token_ids) == (model.manifest.generation.max_new_tokens or 256)


def test_the_context_ends_an_answer(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    force(monkeypatch, 300)
    context = model.context_length
    prompt = "a" * (context - 20)
    result = model.generate(prompt, raw=True, max_new_tokens=context)
    assert result.usage.prompt_tokens > context - 60
    assert result.usage.total_tokens == context
    assert result.finish_reason == "length"


def test_a_prompt_without_room_for_an_answer_is_refused(model: Model) -> None:
    context = model.context_length
    with pytest.raises(ContextLengthError, match=rf"context is {context:,}"):
        model.prepare("word " * context)
    full = ("?" * n for n in range(context, 0, -1))
    prompt = next(text for text in full if len(model.pipeline.tokenizer.encode(text)) == context)
    assert model.prepare(prompt, raw=True).tokens == context
    with pytest.raises(ContextLengthError, match=rf"{context:,} leaves no room"):
        model.generate(prompt, raw=True)


@pytest.mark.parametrize("limit", [0, -1, 10**9, 1.5, "3", True])
def test_limits_outside_their_interval_are_refused(model: Model, limit: int) -> None:
    with pytest.raises(UsageError, match=rf"expected 1 to {model.context_length}"):
        model.generate("Hi", max_new_tokens=limit)


def test_a_cancelled_stream_has_what_was_said_so_far(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    force(monkeypatch, 300)
    with model.stream("Hi") as stream:
        first = next(stream)
    assert stream.result.finish_reason == "cancelled"
    assert stream.result.text.startswith(first)
    assert list(stream) == []


def test_ctrl_c_leaves_a_stream_that_can_be_cancelled(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(logits: np.ndarray, rng: np.random.Generator) -> int:
        if len(said) == 3:
            raise KeyboardInterrupt
        said.append(300)
        return 300

    said: list[int] = []
    use_sampler(monkeypatch, interrupted)
    stream = model.stream("Hi")
    with pytest.raises(KeyboardInterrupt):
        list(stream)
    assert list(stream) == []
    assert stream.result.finish_reason == "cancelled"
    assert stream.result.token_ids == [300] * 3


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("when", ["prefill", "decode"])
def test_logits_that_are_not_finite_are_an_error(
    model: Model, value: float, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = model.generate("Hi", max_new_tokens=4)
    method = "forward" if when == "prefill" else "__call__"
    owner = Decoder if when == "prefill" else DecodeStep
    original = getattr(owner, method)

    def spoiled(*args: Any, **options: Any) -> Any:
        logits = original(*args, **options)
        logits[..., 7] = value
        return logits

    monkeypatch.setattr(owner, method, spoiled)
    stream = model.stream("Hi", max_new_tokens=4, prompt_lookup_num_tokens=0)
    with pytest.raises(GenerationError, match="not finite"):
        list(stream)
    assert list(stream) == []
    with pytest.raises(UsageError):
        _ = stream.result
    monkeypatch.undo()
    assert model.generate("Hi", max_new_tokens=4).token_ids == before.token_ids


def test_several_prompts_give_several_answers(model: Model) -> None:
    questions = ["What is in this picture?", "How many shapes are there?"]
    alone = [model.generate(q, [image(i)], max_new_tokens=6) for i, q in enumerate(questions)]
    together = model.generate(questions, [[image(0)], [image(1)]], max_new_tokens=6)
    assert [r.token_ids for r in together] == [r.token_ids for r in alone]
    messages = [[{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]] * 2
    assert len(model.generate(messages, max_new_tokens=2)) == 2
    wrong: list[tuple[Any, str]] = [
        ([image()], "got 1 with Image among them"),
        ([[image()]], "got 1$"),
        ([[]] * 3, "got 3$"),
        (image(), "got Image$"),
        ((p for p in ([], [])), "got generator$"),
    ]
    for images, told in wrong:
        with pytest.raises(UsageError, match=f"^2 prompts were given, .* 2 lists of images.* {told}"):
            model.generate(questions, images)


def test_a_prompt_that_fails_is_named_before_computing(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Model, "_answers", lambda *_: pytest.fail("computed"))
    for prompts, images, error, told in [
        (["a", "b"], [None, ["missing.png"]], ImageError, "^prompt 1: there is no image"),
        (["a", 3], None, PromptError, "^prompt 1: expected a question"),
        ([[], "b"], None, PromptError, "^prompt 0: .*an empty list"),
        (["<image>", "b"], [None, [image()]], PromptError, "^prompt 0: .*1 <image> placeholder, but 0 "),
        (["a", "b", "c " * 3000], None, ContextLengthError, "^prompt 2: the prompt has"),
    ]:
        with pytest.raises(error, match=told):
            model.generate(prompts, images, raw="<image>" in prompts)  # type: ignore[call-overload]


def test_prompts_and_their_images_may_be_tuples(model: Model) -> None:
    alone = model.generate("What is this?", image(), max_new_tokens=5)
    hello = [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]
    both = model.generate(("What is this?", hello), ((image(),), None), max_new_tokens=5)  # type: ignore[call-overload]
    assert [r.token_ids for r in both] == [
        alone.token_ids,
        model.generate(hello, max_new_tokens=5).token_ids,
    ]


def test_several_answers_to_each_of_several_prompts_stand_side_by_side(model: Model) -> None:
    questions = ["What is in this picture?", "How many shapes are there?", "Hi"]
    images: list[Any] = [[image(0)], [image(1)], None]
    for options in (
        {"num_beams": 3, "num_return_sequences": 2},
        {"do_sample": True, "temperature": 2.0, "num_return_sequences": 3, "seed": 8},
    ):
        alone = [
            answer
            for question, given in zip(questions, images, strict=True)
            for answer in model.generate(question, given, max_new_tokens=8, **options)  # type: ignore[attr-defined]
        ]
        together = model.generate(questions, images, max_new_tokens=8, **options)  # type: ignore[arg-type]
        assert [r.token_ids for r in together] == [r.token_ids for r in alone]


def test_one_image_need_not_be_in_a_list(model: Model) -> None:
    single = model.generate("What?", image(), max_new_tokens=3)
    assert single.token_ids == model.generate("What?", [image()], max_new_tokens=3).token_ids


def test_bad_images_and_prompts_are_told_before_computing(model: Model) -> None:
    with pytest.raises(ImageError):
        model.stream("What?", ["missing.png"])
    with pytest.raises(PromptError, match="1 <image> placeholder, but 0 images"):
        model.stream("<image>", raw=True)


def test_threads_may_generate_at_once(model: Model) -> None:
    from concurrent.futures import ThreadPoolExecutor

    def ask(i: int) -> list[int]:
        return model.generate(QUESTIONS[i % 2], [image(i % 3)], max_new_tokens=8).token_ids

    alone = [ask(i) for i in range(6)]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(ask, range(6))) == alone


def read(decoder: Decoder, ids: list[int], cache: KVCache, slot: int = 0) -> np.ndarray:
    """Logits after the last of some tokens of text."""
    none = np.zeros((0, decoder.shape.hidden_size), np.float32)
    return decoder.forward(ids, ids, none, cache, slot, cancellation=Cancellation())[-1]


def all_logits(decoder: Decoder, ids: list[int]) -> np.ndarray:
    return decoder.all_logits(ids, np.zeros((0, decoder.shape.hidden_size), np.float32))


def test_a_token_allocates_nothing_that_stays(model: Model) -> None:
    decoder = model.pipeline.decoder
    cache = decoder.new_cache(600)
    read(decoder, [5, 6, 7], cache)
    decode_one = decoder.new_step(cache, 0, 1)
    buffers = cache._buffers.pointers
    for token in range(20, 40):
        decode_one([token])
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for token in range(20, 276):
        decode_one([token])
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert grown < 12_000  # keys: 8 bytes a token, and what the list has to spare
    assert cache._buffers.pointers == buffers
    assert cache.length(0) == 3 + 20 + 256


def test_decoding_in_one_buffer_equals_reading_at_once(model: Model) -> None:
    decoder = model.pipeline.decoder
    ids = [int(i) for i in np.random.default_rng(0).integers(10, 400, 90)]
    whole_TV = all_logits(decoder, ids)
    cache = decoder.new_cache(len(ids))
    read(decoder, ids[:30], cache)
    again_V = read(decoder, ids[30:60], cache)  # several tokens over a past
    assert np.abs(again_V - whole_TV[59]).max() < LOGIT_TOLERANCE
    decode_one = decoder.new_step(cache, 0, 1)
    for position in range(60, 90):
        assert np.abs(decode_one([ids[position]])[0] - whole_TV[position]).max() < LOGIT_TOLERANCE
    cache.rewind(0, 40)
    assert np.abs(read(decoder, ids[40:70], cache) - whole_TV[69]).max() < LOGIT_TOLERANCE


def test_slots_decode_together_as_they_do_alone(model: Model) -> None:
    """Rows of different lengths, one left out, one moved to another slot."""
    decoder, rng = model.pipeline.decoder, np.random.default_rng(1)
    rows = [[int(i) for i in rng.integers(10, 400, length)] for length in (40, 7, 90, 23)]
    cache = decoder.new_cache(128, slots=6)
    for slot, ids in enumerate(rows, start=1):
        read(decoder, ids[:-2], cache, slot)
    cache.copy(4, 0)
    cache.rewind(4, 0)
    step = decoder.new_step(cache, 0, 4)
    read(decoder, rows[1][:-2], cache, 5)
    for offset in (-2, -1):
        logits_RV = step([rows[3][offset], rows[0][offset], None, rows[2][offset]])
    for row, got_V in zip((rows[3], rows[0], rows[2]), logits_RV[[0, 1, 3]], strict=True):
        assert np.abs(got_V - all_logits(decoder, row)[-1]).max() < LOGIT_TOLERANCE
    assert [cache.length(slot) for slot in range(6)] == [23, 40, 5, 90, 0, 5]
    left_out = decoder.new_step(cache, 2, 1)  # nothing of it was overwritten
    left_out([rows[1][-2]])
    assert np.abs(left_out([rows[1][-1]])[0] - all_logits(decoder, rows[1])[-1]).max() < LOGIT_TOLERANCE


def test_a_cache_keeps_its_contents_when_it_grows(model: Model) -> None:
    decoder = model.pipeline.decoder
    ids = list(range(20, 140))
    cache = decoder.new_cache(64)
    read(decoder, ids[:60], cache)
    cache.reserve(120)
    assert cache.capacity >= 120
    assert np.abs(read(decoder, ids[60:], cache) - all_logits(decoder, ids)[-1]).max() < LOGIT_TOLERANCE


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read as Linux tells it")
def test_low_memory_leaves_weights_in_their_files(pebble_bundle: Path) -> None:
    """The same answer, and no copy of the weights: read from a child, whose memory nothing else has touched."""
    script = (
        "import pathlib, sys, pumice\n"
        "model = pumice.load(sys.argv[1], device='cpu', low_memory=sys.argv[2] == 'low')\n"
        "answer = model.generate('How many shapes are there?', images=[sys.argv[3]]).text\n"
        "status = pathlib.Path('/proc/self/status').read_text()\n"
        "print(status.split('RssAnon:')[1].split()[0], answer)"  # KiB that no file stands behind
    )
    image = Path(__file__).parents[2] / "pebble" / "heldout" / "stop-sign.png"
    outputs = [
        subprocess.run(
            [sys.executable, "-c", script, str(pebble_bundle), kind, str(image)],
            capture_output=True, text=True, check=True,
        ).stdout.split(maxsplit=1)
        for kind in ("low", "usual")
    ]  # fmt: skip
    (low, low_text), (usual, usual_text) = outputs
    assert low_text == usual_text
    assert int(low) < int(usual) - 5_000  # KiB, of 12 MB of weights
