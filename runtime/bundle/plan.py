"""What a bundle needs of memory, before it is loaded.

Enters: a manifest, a context and a batch. Leaves: a `MemoryPlan`, budgets of caches, or an error where a KV cache does
not fit. The rules are measurements of the CPU provider; docs/memory.md has them with their errors.

    process ─ tokenizer ─ weights ─ KV cache ─ activations ─ logits ─ caches = total, which fits into what is available
"""

from __future__ import annotations

from dataclasses import dataclass

from pumice.bundle.footprint import (
    PROCESS,
    STEP,
    clip_bytes,
    decoder_activation_bytes,
    image_tokens,
    logits_bytes,
    packing_bytes,
    position_bytes,
    rounded_down,
    rounded_up,
    score_bytes,
    tokenizer_bytes,
    unpacked_bytes,
    vision_activation_bytes,
    weight_bytes,
)
from pumice.errors import InsufficientMemoryError, UsageError
from pumice.machine.memory import available_memory
from pumice.manifest import MOST_FRAMES, DecoderShape, Manifest

MAX_BATCH = 1024

GROWING = ("KV cache", "attention scores")
"""The parts of a plan that grow with the context."""

_MIB = 2**20
_LEAST_PREFIXES = 128 * _MIB
_MOST_FEATURES = 256 * _MIB
_FEATURED_IMAGES = 32


@dataclass(frozen=True, kw_only=True)
class MemoryPlan:
    """Bytes that a bundle needs on the CPU.

    `loaded` are held from loading on; `answering` beside them while `batch` sequences of `context` tokens are answered,
    each as large as it can become; `packing` beside `loaded` for a moment while loading. `mapped` are weights left in
    their files: the system drops them and reads them again as it likes.
    """

    context: int
    batch: int
    images: int
    low_memory: bool
    loaded: dict[str, int]
    answering: dict[str, int]
    packing: int
    mapped: int
    available: int | None
    """What the process may use; None where the system does not tell."""
    position: int
    """What one more token of context takes in all sequences."""
    context_length: int

    @property
    def total(self) -> int:
        """All that is held at once, at most."""
        return sum(self.loaded.values()) + max(self.packing, sum(self.answering.values()))

    @property
    def fits(self) -> bool | None:
        """Whether `total` is available; None where that is unknown."""
        return None if self.available is None else self.total <= self.available

    @property
    def longest_context(self) -> int | None:
        """Tokens of each sequence with which the rest of the plan fits; 0 if none, None where that is unknown."""
        if self.available is None:
            return None
        room = self.available - sum(self.loaded.values())
        others = sum(size for name, size in self.answering.items() if name not in GROWING)
        if room < self.packing:
            return 0
        positions = max(0, room - others) // self.position
        return self.context_length if positions >= self.context_length else positions // STEP * STEP


def plan(
    manifest: Manifest,
    *,
    context: int | None = None,
    batch: int = 1,
    images: int = 1,
    frames: int = 0,
    low_memory: bool = False,
    optimized: bool = False,
    available: int | None = None,
) -> MemoryPlan:
    """What answering `batch` prompts at once takes on the CPU, before anything is loaded.

    Args:
        manifest: of the bundle; nothing else of it is read.
        context: tokens of each prompt and its answer, 1 … context length (default: all of it).
        batch: sequences at once, or slots of an engine, 1 … `MAX_BATCH`.
        images: that go through the vision encoder at once, 0 … `MAX_BATCH`.
        frames: of a video that is prepared meanwhile, 0 … `MOST_FRAMES`, of a model that takes videos.
        low_memory: as in `pumice.load`.
        optimized: with the copy that `pumice optimize` makes; `low_memory` changes nothing then.
        available: bytes to fit into (default: `available_memory()`).

    Raises:
        UsageError: a number outside its interval.
    """
    shape = manifest.decoder
    context = _checked(
        "context", shape.context_length if context is None else context, 1, shape.context_length
    )
    frames = _checked("frames", frames, 0, MOST_FRAMES)
    batch, images = _checked("batch", batch, 1, MAX_BATCH), _checked("images", images, 0, MAX_BATCH)
    available = available_memory() if available is None else available
    low_memory = low_memory and not optimized
    held, mapped = weight_bytes(manifest, low_memory=low_memory, optimized=optimized)
    return MemoryPlan(
        context=context,
        batch=batch,
        images=images,
        low_memory=low_memory,
        loaded={"process": PROCESS, "tokenizer": tokenizer_bytes(manifest), "weights": held},
        answering={
            "KV cache": position_bytes(shape) * batch * rounded_up(shape, context),
            "vision activations": images * vision_activation_bytes(manifest),
            **({"video": clip_bytes(manifest, frames)} if frames else {}),
            "decoder activations": decoder_activation_bytes(shape),
            "attention scores": score_bytes(shape) * rounded_up(shape, context),
            "unpacked matrix": unpacked_bytes(manifest, low_memory=low_memory),
            "logits": logits_bytes(shape, batch),
            "prefix cache": default_prefix_cache_bytes(manifest, available),
            "feature cache": default_feature_cache_bytes(manifest, available),
        },
        packing=packing_bytes(manifest, low_memory=low_memory),
        mapped=mapped,
        available=available,
        position=position_bytes(shape) * batch + score_bytes(shape),
        context_length=shape.context_length,
    )


def check_cache(shape: DecoderShape, capacity: int, slots: int, device: str) -> None:
    """Refuse a KV cache of `slots` × `capacity` positions that is larger than the memory which is left.

    On the CPU a new cache is only addresses, which cost nothing until they are filled: the system would grant it, and
    end the process later. Where the memory is unknown (CUDA) nothing is refused here: allocating fails at once there.

    Raises:
        InsufficientMemoryError: says what is needed, what is left, and what would fit.
    """
    available = available_memory(device)
    each = position_bytes(shape)
    needed = each * slots * capacity
    if available is None or needed <= available:
        return
    tokens, sequences = rounded_down(shape, available // (each * slots)), available // (each * capacity)
    fitting = [f"{tokens:,} tokens × {slots} slots"] if tokens else []
    fitting += [f"{capacity:,} tokens × {sequences} slots"] if sequences else []
    raise InsufficientMemoryError(
        f"the keys and values of {capacity:,} tokens × {slots} slots need {needed / _MIB:,.0f} MiB, "
        f"{available / _MIB:,.0f} MiB are available: "
        + (f"{' or '.join(fitting)} would fit" if fitting else "free some memory")
    )


def default_prefix_cache_bytes(manifest: Manifest, available: int | None = None) -> int:
    """What prefixes may take: a quarter of the decoder's weights, 128 MiB at least, a tenth of what is left at most."""
    decoder = manifest.graphs.decoder
    stored = sum(manifest.files[name].size for name in (decoder.file, *decoder.external_data))
    return _bounded(max(_LEAST_PREFIXES, stored // 4), available)


def default_feature_cache_bytes(manifest: Manifest, available: int | None = None) -> int:
    """What features of images may take: about 32 images' [tokens, D] float32, at most 256 MiB or a tenth of the
    memory that is left."""
    tokens = image_tokens(manifest)
    wanted = _FEATURED_IMAGES * tokens * manifest.decoder.hidden_size * 4
    return _bounded(min(wanted, _MOST_FEATURES), available)


def default_slot_context(manifest: Manifest, slots: int, available: int | None = None) -> int:
    """Positions of each of an engine's slots: the whole context, or what half of the memory that is left holds.

    A multiple of 64 unless it is the whole context, and 64 at least: what does not fit then, `check_cache` refuses.
    """
    shape = manifest.decoder
    available = available_memory() if available is None else available
    if available is None:
        return shape.context_length
    fitting = rounded_down(shape, available // 2 // (position_bytes(shape) * slots))
    return max(fitting, min(STEP, shape.context_length))


def fitting_slots(shape: DecoderShape, capacity: int, device: str, most: int) -> int:
    """Slots of `capacity` positions that half of the memory which is left holds: 1 … `most`, or `most` if unknown."""
    available = available_memory(device)
    if available is None:
        return most
    return max(1, min(most, available // 2 // (position_bytes(shape) * rounded_up(shape, capacity))))


def _bounded(wanted: int, available: int | None) -> int:
    """Not above a tenth of the memory that is left."""
    available = available_memory() if available is None else available
    return wanted if available is None else min(wanted, available // 10)


def _checked(name: str, value: int, least: int, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise UsageError(f"{name} is {value!r}, expected {least:,} to {most:,}")
    return value
