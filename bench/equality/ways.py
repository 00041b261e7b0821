"""The ways to compute the same answer that are compared: each again, cut otherwise, with a cache, together, and so on.

Enters: a bundle. Leaves: for each way, how far its logits are from those of the prompt read at once, alone, and decoded
token by token.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pumice
from bench.equality.asked import Prompt
from bench.equality.difference import Difference, Floats, difference
from bench.equality.following import Follower, follow
from pumice.decoder.prefix_cache import PrefixCache
from pumice.model import Model
from pumice.scheduler import scheduler
from pumice.scheduler.request import Request
from pumice.sessions.runs import Cancellation
from pumice.vision.features import encode_together

TOKENS = 24
"""Of an answer."""
DRAFTS = 8
_ALL = 1 << 20
_PREFIX_BYTES = 1 << 30


@dataclass(frozen=True, kw_only=True)
class Reference:
    """A prompt, its greedy answer, and what each token of that was chosen by, float32 [N, V]."""

    prompt: Prompt
    answer: list[int]
    logits: Floats


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A bundle, loaded without caches, and what it answers."""

    model: Model
    references: list[Reference]

    def every(self, n: int) -> Setting:
        """The same with every nth reference: a way that keeps bits shows it on few, and one that does not on one."""
        return Setting(model=self.model, references=self.references[::n])

    def request(self, prompt: Prompt) -> Request:
        """A request for a prompt, with its images encoded alone."""
        return prompt.request(self.model, TOKENS)

    def follower(self, reference: Reference, drafts: int = 0) -> Follower:
        """What goes on with a reference's answer."""
        return Follower(reference.answer, most=TOKENS, drafts=drafts)

    def each(self, compute: Callable[[Reference, Request, Follower], None], drafts: int = 0) -> Difference:
        """The difference where each answer is computed alone."""

        def pairs() -> Iterator[tuple[Floats, Floats]]:
            for reference in self.references:
                follower = self.follower(reference, drafts)
                compute(reference, self.request(reference.prompt), follower)
                yield reference.logits, follower.logits

        return difference(pairs())


def setting(bundle: Path, prompts: Sequence[Prompt], threads: int) -> Setting:
    """Load a bundle and let it answer, each prompt alone and read in one run."""
    model = load(bundle, threads)
    return Setting(model=model, references=[answered(model, prompt) for prompt in prompts])


def load(bundle: Path, threads: int) -> Model:
    """A bundle as it is, without caches of its own."""
    return pumice.load(
        bundle,
        device="cpu",
        threads=threads,
        optimized=False,
        prefix_cache_bytes=0,
        feature_cache_bytes=0,
    )


def answered(model: Model, prompt: Prompt) -> Reference:
    """The greedy answer to a prompt that is read in one run."""
    follower = Follower(None, most=TOKENS, ends=model.pipeline.options({}).eos_token_id)
    with chunks_of(_ALL):
        follow(model, [prompt.request(model, TOKENS)], [follower])
    return Reference(prompt=prompt, answer=follower.answer, logits=follower.logits)


@contextlib.contextmanager
def chunks_of(size: int) -> Iterator[None]:
    """Prompts are read so many tokens at a time."""
    before = scheduler.CHUNK["cpu"]
    scheduler.CHUNK["cpu"] = size
    try:
        yield
    finally:
        scheduler.CHUNK["cpu"] = before


def again(setting: Setting) -> Difference:
    """The same once more."""
    with chunks_of(_ALL):
        return setting.every(3).each(
            lambda _, request, follower: follow(setting.model, [request], [follower])
        )


def chunks(setting: Setting) -> Difference:
    """Prompts in chunks of 32 tokens."""
    with chunks_of(32):
        return setting.every(3).each(
            lambda _, request, follower: follow(setting.model, [request], [follower])
        )


def kept(setting: Setting) -> Difference:
    """Prompts whose blocks are kept from the call before; read in the usual chunks."""

    def twice(reference: Reference, request: Request, follower: Follower) -> None:
        prefixes = PrefixCache(_PREFIX_BYTES)
        follow(
            setting.model,
            [setting.request(reference.prompt)],
            [setting.follower(reference)],
            prefixes=prefixes,
        )
        follow(setting.model, [request], [follower], prefixes=prefixes)
        assert request.cached_tokens or len(request.ids) < 36, "nothing was kept"

    return setting.every(3).each(twice)


def together(setting: Setting) -> Difference:
    """All prompts at once, as lists and the engine have them: read in small chunks while others decode in rows."""
    requests = [setting.request(reference.prompt) for reference in setting.references]
    followers = [setting.follower(reference) for reference in setting.references]
    follow(setting.model, requests, followers)
    return _pairs(setting, followers)


def images_together(setting: Setting) -> Difference:
    """All images encoded at once."""
    seen = [reference for reference in setting.references if reference.prompt.images]
    setting = Setting(model=setting.model, references=seen)
    requests = [setting.request(reference.prompt) for reference in seen]
    encode_together([request.features for request in requests], Cancellation())
    followers = [setting.follower(reference) for reference in seen]
    for request, follower in zip(requests, followers, strict=True):
        follow(setting.model, [request], [follower])
    return _pairs(setting, followers)


def threads(setting: Setting) -> Difference:
    """Another number of threads: one, or three where it was one."""
    other = load(setting.model.path, 1 if setting.model.threads > 1 else 3)
    return setting.every(3).each(lambda _, request, follower: follow(other, [request], [follower]))


def next_turn(setting: Setting) -> Difference:
    """A second question: behind what a chat's cache has, its own answer decoded; against the conversation read anew."""
    model = setting.model
    pairs = []
    for reference in setting.every(2).references:
        text = model.pipeline.tokenizer.decode(reference.answer).strip()
        prompt = reference.prompt.followed(text)
        fresh = answered(model, prompt)
        cache = model.pipeline.decoder.new_cache(setting.request(prompt).capacity)
        first, second, follower = (
            setting.request(reference.prompt),
            setting.request(prompt),
            setting.follower(fresh),
        )
        follow(model, [first], [setting.follower(reference)], cache=cache)
        follow(model, [second], [follower], cache=cache)
        pairs.append((fresh.logits, follower.logits))
    return difference(pairs)


def drafted(setting: Setting) -> Difference:
    """Eight tokens drafted behind every one, and verified with it."""
    return setting.each(lambda _, request, follower: follow(setting.model, [request], [follower]), DRAFTS)


WAYS: dict[str, Callable[[Setting], Difference]] = {
    "the same call again": again,
    "a prompt in chunks of 32, not at once": chunks,
    "a prompt whose beginning is kept": kept,
    "images encoded together": images_together,
    "another number of threads": threads,
    "answered together: lists, the engine": together,
    "a chat's next turn, not the conversation anew": next_turn,
    "8 drafts verified at once": drafted,
}
"""By what they are called on the page."""


def _pairs(setting: Setting, followers: Sequence[Follower]) -> Difference:
    return difference(
        (reference.logits, follower.logits)
        for reference, follower in zip(setting.references, followers, strict=True)
    )
