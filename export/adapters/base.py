"""Is the checkpoint the adapter's base model? Told where their names say otherwise.

Enters: a checkpoint, and what `adapter_config.json` calls its base. Leaves: a warning, or nothing: tensors that do not
fit are errors elsewhere, and another model of the same shape is merged all the same.

Folders are called anything, so that only hub ids are held against each other, by their last part, for copies have other
owners: `llava-hf/llava-1.5-7b-hf` and `unsloth/llava-1.5-7b-hf-bnb-4bit` are one base.
"""

from __future__ import annotations

import logging
import re
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

from pumice.export.checkpoint.folder import Checkpoint
from pumice.export.checkpoint.hub import is_hub_id

_CACHED = re.compile(r"models--(?P<owner>[\w.-]+?)--(?P<name>[\w.-]+)")
"""A model's folder in the hub's cache."""
_QUANTISED = re.compile(r"([-_](unsloth|bnb|[48][-_]?bit))+$")
"""What copies with 4-bit weights, on which QLoRA trains, have behind the name."""


def warn_of_other_base(checkpoint: Checkpoint, adapter: str, base: Any) -> None:
    """Log a warning, once, where `adapter` names another `base` than `checkpoint`."""
    own, wanted = _hub_id(checkpoint.path), _hub_id(base) if isinstance(base, str) else None
    if own is None or wanted is None:
        return
    known = {_model(own), *(_model(name) for name in _origins(checkpoint))}
    if _model(wanted) not in known:
        _warn(adapter, wanted, own)


@lru_cache(maxsize=64)
def _warn(adapter: str, wanted: str, own: str) -> None:
    """Once for the same three: an export that is verified, and a comparison, merge again."""
    logging.getLogger("pumice").warning(
        "the adapter %s was trained on %s, and is merged into %s: is this its base model?",
        adapter,
        wanted,
        own,
    )


def _hub_id(place: str | Path) -> str | None:
    """The hub id of an id, or of a folder in the hub's cache; None of other folders."""
    text = str(place).replace("\\", "/")
    cached = _CACHED.search(text)
    if cached is not None:
        return f"{cached['owner']}/{cached['name']}"
    return text if is_hub_id(text) and not isinstance(place, Path) else None


def _origins(checkpoint: Checkpoint) -> list[str]:
    """What the checkpoint was saved from, as older transformers note: a fine-tune may pass for its base."""
    origin = checkpoint.config.get("_name_or_path")
    return [origin] if isinstance(origin, str) and origin else []


def _model(name: str) -> str:
    """The last part, in small letters, of a model in any quantisation."""
    return _QUANTISED.sub("", PurePosixPath(_hub_id(name) or name.replace("\\", "/")).name.lower())
