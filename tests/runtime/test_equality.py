"""What docs/equality.md promises of a bundle's numbers, on pebble in float32, 8 and 4 bits, its cache in 8 too.

Same bits: logits are compared as they are. Same tokens: greedy answers, for float32. Oracle: the prompt read whole, and
alone. What may differ (drafts and chats of quantised bundles) is measured by `python -m bench.equality`.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pumice
from pebble.heldout import FOLDER, QUESTIONS
from pebble.records import load_records, to_messages
from pumice.decoder.kv_cache import KVCache
from pumice.decoder.prefix_cache import PrefixCache
from pumice.generation.strategy import Floats
from pumice.loading import drafts_pay
from pumice.manifest import Manifest
from pumice.model import Model
from pumice.scheduler import scheduler
from pumice.scheduler.scheduler import Scheduler
from tests.runtime.scheduler.test_scheduler import Script, ids_of, job_of, run, step

pytestmark = pytest.mark.export_extra
"""Bundles of seven kinds are exported for it."""

ANSWER = [20, 31, 42]
"""What follows every prompt here, whatever its logits say."""
LENGTHS = (1, 2, 3, 4, 33, 34, 35, 97, 129, 130, 131, 132, 161, 259)
"""Of prompts; many of them leave one or two tokens behind chunks and blocks of 32 and 128."""

INTEGER_PRODUCTS = """
rotate = true
[decoder]
weights = "int8"
activations = "int8"
block_size = 32
accuracy_level = 4
"""


@pytest.fixture(scope="module")
def bundles(
    pebble_checkpoint: Path,
    pebble_bundle: Path,
    pebble_bundle_int4: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Path]:
    from pumice.export.pipeline import export_bundle

    folder = tmp_path_factory.mktemp("equality")
    integers = folder / "integers.toml"
    integers.write_text(INTEGER_PRODUCTS)
    made = {"fp32": pebble_bundle, "int4": pebble_bundle_int4}
    for name, recipe in {"int8": "cpu-int8", "integers": integers, "prefill": "cpu-fast"}.items():
        export_bundle(pebble_checkpoint, folder / name, recipe=recipe)
        made[name] = folder / name
    for name, recipe in {"int8 cache": "cpu-int8", "prefill, int8 cache": "cpu-fast"}.items():
        export_bundle(pebble_checkpoint, folder / name, recipe=recipe, kv_cache="int8")
        made[name] = folder / name
    return made


@pytest.fixture(
    scope="module",
    params=["fp32", "int8", "integers", "int4", "prefill", "int8 cache", "prefill, int8 cache"],
)
def model(request: pytest.FixtureRequest, bundles: dict[str, Path]) -> Model:
    return load(bundles[request.param])


def load(bundle: Path, **options: Any) -> Model:
    return pumice.load(bundle, device="cpu", **{"threads": 1, "optimized": False} | options)


def logits(
    model: Model,
    *prompts: list[int],
    prefixes: PrefixCache | None = None,
    cache: KVCache | None = None,
) -> list[list[Floats]]:
    """The logits behind prompts and behind every token of `ANSWER`; of several, which then are answered together."""
    decoder = model.pipeline.decoder
    cache = cache or decoder.new_cache(320, slots=len(prompts))
    scripts = [Script(ids, [[step(token)] for token in ANSWER]) for ids in prompts]
    requests = [job_of(model, ids, script) for ids, script in zip(prompts, scripts, strict=True)]
    queue = Scheduler(decoder, cache, prefixes)
    for request in requests:
        queue.add(request)
    run(queue)
    assert [request.error for request in requests] == [None] * len(requests)
    return [[logits_V for _, logits_V in script.seen] for script in scripts]


def same_bits(ours: list[Floats], theirs: list[Floats]) -> bool:
    assert len(ours) == len(theirs) == len(ANSWER) + 1
    return all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("size", [32, 128])
def test_chunks_change_no_bit(model: Model, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for length in LENGTHS:
        ids = ids_of(length, length)
        monkeypatch.setitem(scheduler.CHUNK, "cpu", 4096)
        (whole,) = logits(model, ids)
        monkeypatch.setitem(scheduler.CHUNK, "cpu", size)
        (cut,) = logits(model, ids)
        assert same_bits(cut, whole), length


def test_kept_prefixes_change_no_bit(model: Model) -> None:
    """Of an equal prompt, in blocks and in the slot itself; and of one that goes on in another way."""
    for length in LENGTHS:
        ids = ids_of(length, length)
        (fresh,) = logits(model, ids)
        prefixes, slot = PrefixCache(2**24), model.pipeline.decoder.new_cache(320)
        logits(model, ids, prefixes=prefixes)
        logits(model, ids, cache=slot)
        assert same_bits(*logits(model, ids, prefixes=prefixes), fresh), length
        assert same_bits(*logits(model, ids, cache=slot), fresh), length
        other = [*ids[: length - 1], 7, 8, 9]
        (fresh,) = logits(model, other)
        assert same_bits(*logits(model, other, prefixes=prefixes), fresh), length
        assert same_bits(*logits(model, other, cache=slot), fresh), length


@pytest.mark.parametrize("name", ["fp32", "int8", "integers", "int8 cache"])
def test_rows_change_no_bit(name: str, bundles: dict[str, Path]) -> None:
    """Prompts that are read while others decode, and whose tokens are computed together."""
    model = load(bundles[name])
    prompts = [ids_of(length, length) for length in (161, 35, 130, 97, 33)]
    for ids, together in zip(prompts, logits(model, *prompts), strict=True):
        assert same_bits(together, *logits(model, ids)), len(ids)


def test_threads_change_no_bit(model: Model) -> None:
    more = load(model.path, threads=3)
    for length in (3, 131, 259):
        ids = ids_of(length, length)
        assert same_bits(*logits(more, ids), *logits(model, ids)), length


def test_the_same_call_twice_gives_the_same_answer(model: Model) -> None:
    """Also where the second one finds its prompt's beginning and its image's features in caches."""
    again = load(model.path)
    for record in load_records(QUESTIONS)[::160]:
        messages, images = to_messages(record), [FOLDER / name for name in record.images]
        found = [m.generate(messages, images, logprobs=5, max_new_tokens=12) for m in (model, again, again)]
        assert found[2].usage.cached_tokens > 0
        for other in found[1:]:
            assert other.token_ids == found[0].token_ids
            assert other.logprobs == found[0].logprobs


def test_drafts_leave_float32_answers_as_they_are(bundles: dict[str, Path]) -> None:
    model = load(bundles["fp32"])
    for record in load_records(QUESTIONS)[::40]:
        messages, images = to_messages(record), [FOLDER / name for name in record.images]
        plain, drafted = (
            model.generate(messages, images, logprobs=1, max_new_tokens=24, prompt_lookup_num_tokens=most)
            for most in (0, 8)
        )
        assert drafted.token_ids == plain.token_ids
        assert plain.logprobs is not None
        assert drafted.logprobs is not None
        for ours, theirs in zip(drafted.logprobs, plain.logprobs, strict=True):
            assert abs(ours.logprob - theirs.logprob) < 1e-4


def enlarged(manifest: Manifest) -> Manifest:
    """One by which the bundle's files are a thousand times as large."""
    files = {
        name: dataclasses.replace(entry, size=entry.size * 1000) for name, entry in manifest.files.items()
    }
    return dataclasses.replace(manifest, files=files)


@pytest.mark.parametrize(
    ("name", "small", "large"),
    [("fp32", False, True), ("int8", False, False), ("integers", False, False), ("int4", False, False)],
)
def test_drafts_are_made_by_default_where_they_change_nothing_and_pay(
    name: str, small: bool, large: bool, bundles: dict[str, Path]
) -> None:
    model = load(bundles[name])
    assert model.pipeline.strategies.drafts_by_default is small is drafts_pay(model.manifest)
    assert drafts_pay(enlarged(model.manifest)) is large
    for by_default in (False, True):
        strategies = dataclasses.replace(model.pipeline.strategies, drafts_by_default=by_default)
        for asked, expected in ((None, by_default), (4, True), (0, False)):
            options = model.options(prompt_lookup_num_tokens=asked) if asked is not None else model.options()
            assert (strategies.drafter(options) is not None) is expected


def test_drafts_of_float16_are_off_by_default(pebble_bundle_cuda: Path) -> None:
    assert not drafts_pay(enlarged(load(pebble_bundle_cuda).manifest))
