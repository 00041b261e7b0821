"""An adapter's tensors, sorted by the checkpoint's tensor that each is for, and turned into changes of it.

Enters: an `OpenedAdapter`, and the shapes of a checkpoint's tensors by canonical name. Leaves: changes by canonical
name. A tensor that is for none of them, or that its settings do not account for, is an error: nothing is passed over.

    base_model.model.model.language_model.layers.0.self_attn.q_proj.lora_A.weight      since transformers 4.52
    base_model.model.language_model.model.layers.0.self_attn.q_proj.lora_A.weight      before
                     ╰──────────────── the module's path ─────────╯ ╰ the part ─╯
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from pumice.errors import CheckpointError
from pumice.export.adapters.change import (
    Change,
    Kept,
    Stored,
    add_bias,
    add_embedding,
    add_product,
    in_order,
    replace_tokens,
    replace_whole,
)
from pumice.export.adapters.folder import OpenedAdapter
from pumice.models.tensor_names import canonical_name

Shapes = Mapping[str, tuple[int, ...]]
_PREFIX = "base_model.model."
_PARTS = {
    "a": r"lora_A(?:\.default)?\.weight",
    "b": r"lora_B(?:\.default)?\.weight",
    "bias": r"lora_B(?:\.default)?\.bias",
    "magnitude": r"lora_magnitude_vector(?:\.default)?(?:\.weight)?",
    "embedding_a": r"lora_embedding_A(?:\.default)?",
    "embedding_b": r"lora_embedding_B(?:\.default)?",
    "tokens": r"token_adapter\.trainable_tokens_delta(?:\.default)?",
}
_PART = re.compile(
    r"^(.+)\.(?:" + "|".join(f"(?P<{part}>{pattern})" for part, pattern in _PARTS.items()) + ")$"
)
_WHOLE = re.compile(r"^(.+?)(?:\.base_layer|\.modules_to_save(?:\.default)?)?\.(weight|bias)$")
_PAIRS = {"a": "b", "b": "a", "embedding_a": "embedding_b", "embedding_b": "embedding_a"}
_TOLD = 4
"""Names in an error."""


@dataclass(frozen=True, kw_only=True)
class _Module:
    """What an adapter has for one module; `paths` are its names in all layouts, the adapter's own first."""

    paths: tuple[str, ...]
    parts: dict[str, Stored] = field(default_factory=dict)


def changes_of(adapter: OpenedAdapter, shapes: Shapes, kept: Kept) -> dict[str, Change]:
    """Changes by canonical name. Raises CheckpointError."""
    changes: dict[str, Change] = {}
    modules: dict[str, _Module] = {}
    strange = []
    for name, stored in adapter.tensors.items():
        path = name.removeprefix(_PREFIX)
        if match := _PART.match(path):
            module = modules.setdefault(_canonical(match[1]), _Module(paths=_paths(match[1])))
            assert match.lastgroup is not None
            if match.lastgroup in module.parts:
                raise _wrong(adapter, stored, "the adapter has it twice, under different names")
            module.parts[match.lastgroup] = stored
        elif (target := _whole_target(path, shapes)) is None:
            strange.append(name)
        elif target in changes:
            raise _wrong(adapter, stored, "the adapter has it twice, under different names")
        else:
            _expect(adapter, stored, shapes[target])
            changes[target] = replace_whole(stored)
    strange += [s.name for m in modules for s in modules[m].parts.values() if f"{m}.weight" not in shapes]
    if strange:
        more = f" and {len(strange) - _TOLD} more" if len(strange) > _TOLD else ""
        raise CheckpointError(
            f"{adapter.path} has tensors for modules that the checkpoint does not have: "
            f"{', '.join(sorted(strange)[:_TOLD])}{more}: is this the adapter's base model?"
        )
    for canonical, module in modules.items():
        for target, change in _changes(adapter, canonical, module, shapes, kept):
            before = changes.get(target)
            changes[target] = change if before is None else in_order(before, change)
    return changes


def _changes(
    adapter: OpenedAdapter, canonical: str, module: _Module, shapes: Shapes, kept: Kept
) -> Iterator[tuple[str, Change]]:
    """Of one module's weight, and of its bias."""
    settings, parts, weight = adapter.settings, module.parts, f"{canonical}.weight"
    for part, stored in parts.items():
        if _PAIRS.get(part, part) not in parts:
            raise _wrong(adapter, stored, "its other half is missing: save the adapter again")
    scale = settings.scale_of(module.paths, adapter.scale)
    if "a" in parts:
        _check_matrices(adapter, module, shapes[weight])
        magnitude = parts.get("magnitude")
        if magnitude is not None:
            _expect(adapter, magnitude, shapes[weight][:1])
        yield weight, add_product(parts["a"], parts["b"], scale, magnitude, kept)
    elif "magnitude" in parts:
        raise _wrong(adapter, parts["magnitude"], "DoRA of anything but a matrix cannot be merged")
    if "embedding_a" in parts:
        _check_embedding(adapter, module, shapes[weight])
        yield weight, add_embedding(parts["embedding_a"], parts["embedding_b"], scale, kept)
    if "tokens" in parts:
        yield weight, _tokens(adapter, module, shapes[weight], kept)
    if "bias" in parts:
        bias = parts["bias"]
        if not settings.bias or "a" not in parts:
            raise _wrong(adapter, bias, "adapter_config.json does not say lora_bias")
        if f"{canonical}.bias" not in shapes:
            raise _wrong(adapter, bias, "the checkpoint's layer has no bias that it could be added to")
        _expect(adapter, bias, shapes[f"{canonical}.bias"])
        yield f"{canonical}.bias", add_bias(bias, scale)


def _check_matrices(adapter: OpenedAdapter, module: _Module, shape: tuple[int, ...]) -> None:
    a, b = module.parts["a"], module.parts["b"]
    if len(shape) != 2:
        raise _wrong(adapter, a, f"a weight of shape {list(shape)} is a convolution's, which is not merged")
    if adapter.settings.dora != ("magnitude" in module.parts):
        said = "says" if adapter.settings.dora else "does not say"
        raise _wrong(
            adapter, a, f"adapter_config.json {said} use_dora, and lora_magnitude_vector says otherwise"
        )
    if adapter.settings.bias and "bias" not in module.parts:
        raise _wrong(adapter, b, "adapter_config.json says lora_bias, and there is none")
    rank = adapter.settings.rank_of(module.paths)
    _expect(adapter, a, (rank, shape[1]))
    _expect(adapter, b, (shape[0], rank))


def _check_embedding(adapter: OpenedAdapter, module: _Module, shape: tuple[int, ...]) -> None:
    a, b = module.parts["embedding_a"], module.parts["embedding_b"]
    if adapter.settings.dora or "a" in module.parts:
        raise _wrong(adapter, a, "of an embedding table only plain LoRA and rsLoRA are merged")
    if len(shape) != 2:
        raise _wrong(adapter, a, f"the checkpoint's tensor of shape {list(shape)} is no embedding table")
    rank = adapter.settings.rank_of(module.paths)
    _expect(adapter, a, (rank, shape[0]))
    _expect(adapter, b, (shape[1], rank))


def _tokens(adapter: OpenedAdapter, module: _Module, shape: tuple[int, ...], kept: Kept) -> Change:
    stored, tokens = module.parts["tokens"], adapter.settings.tokens_of(module.paths)
    _expect(adapter, stored, (len(tokens), *shape[1:]))
    if any(token >= shape[0] for token in tokens):
        raise _wrong(
            adapter, stored, f"it is for token {max(tokens)}, and the checkpoint's table has {shape[0]} rows"
        )
    return replace_tokens(stored, tokens, kept)


def _expect(adapter: OpenedAdapter, stored: Stored, shape: tuple[int, ...]) -> None:
    if stored.shape != shape:
        raise _wrong(
            adapter,
            stored,
            f"it has shape {list(stored.shape)}, but adapter_config.json and the checkpoint make it {list(shape)} "
            "(another base model, or one whose vocabulary was resized?)",
        )


def _wrong(adapter: OpenedAdapter, stored: Stored, reason: str) -> CheckpointError:
    return CheckpointError(f"{adapter.path}: tensor {stored.name} cannot be merged: {reason}")


def _whole_target(path: str, shapes: Shapes) -> str | None:
    """The checkpoint's tensor that one of the adapter's replaces."""
    match = _WHOLE.match(path)
    target = canonical_name(path if match is None else f"{match[1]}.{match[2]}")
    return target if target in shapes else None


def _canonical(path: str) -> str:
    return canonical_name(f"{path}.weight").removesuffix(".weight")


def _paths(path: str) -> tuple[str, ...]:
    """A module's path as the adapter has it, and as modules were called before and after transformers 4.52."""
    canonical = _canonical(path)
    before = re.sub(
        r"^(language_model|vision_tower)\.",
        lambda m: {"language_model": "language_model.model.", "vision_tower": "vision_tower.vision_model."}[
            m[1]
        ],
        canonical,
    )
    return tuple(dict.fromkeys((path, f"model.{canonical}", before, canonical)))
