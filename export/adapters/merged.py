"""A checkpoint as adapters leave it: the reader of its rows gives merged ones, in float32 where they change.

Enters: an opened checkpoint, and adapters in the order in which they are merged. Leaves: a `Checkpoint`, whose other
files are as they were. Each adapter is merged into what those before it left, as when PEFT's `merge_and_unload` is
called after each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from types import MappingProxyType

from pumice.errors import CheckpointError
from pumice.export.adapters.base import warn_of_other_base
from pumice.export.adapters.change import Change, Kept, in_order
from pumice.export.adapters.folder import OpenedAdapter
from pumice.export.adapters.targets import changes_of
from pumice.export.checkpoint.folder import Checkpoint
from pumice.models.text_weights import EMBEDDING_TABLE

_HEAD = "lm_head.weight"


def merge_adapters(checkpoint: Checkpoint, adapters: Sequence[OpenedAdapter], *, tied: bool) -> Checkpoint:
    """The checkpoint with all of `adapters` merged; `tied` says that its head is its embedding table.

    A base of another name is told (logger `pumice`).

    Raises:
        CheckpointError: an adapter is of another base model, or one of its tensors cannot be merged.
    """
    kept, stored = Kept(), checkpoint.shapes()
    shapes = {_HEAD: stored[EMBEDDING_TABLE], **stored} if tied else stored
    changes: dict[str, Change] = {}
    for adapter in adapters:
        warn_of_other_base(checkpoint, adapter.name, adapter.settings.base)
        found = changes_of(adapter, shapes, kept)
        if tied:
            found = _of_tied(adapter, found, stored.keys() & {_HEAD})
        for name, change in found.items():
            before = changes.get(name)
            changes[name] = change if before is None else in_order(before, change)
    own = {checkpoint.names[name]: change for name, change in changes.items()}
    return replace(checkpoint, changes=MappingProxyType(own))


def _of_tied(adapter: OpenedAdapter, found: dict[str, Change], copies: set[str]) -> dict[str, Change]:
    """A table's replaced tokens are the head's too; what else changes one of the two would change both."""
    if EMBEDDING_TABLE not in found and _HEAD not in found:
        return found
    if _HEAD in found or not _replaces_tokens_alone(adapter):
        raise CheckpointError(
            f"{adapter.path} changes the embedding table or the head, which are one tensor in this checkpoint "
            "(tie_word_embeddings): such an adapter is not merged; untie them first, or train without"
        )
    return found | dict.fromkeys(copies, found[EMBEDDING_TABLE])


def _replaces_tokens_alone(adapter: OpenedAdapter) -> bool:
    of_table = [name for name in adapter.tensors if "embed_tokens." in name]
    return all("trainable_tokens_delta" in name for name in of_table)
