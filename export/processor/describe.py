"""What travels along with the weights: tokenizer, chat template, preprocessing and generation defaults.

Enters: a checkpoint's JSON files, as transformers' `AutoProcessor` understands them (it is the reference: its defaults,
its precedence among files, its older spellings). Leaves: the manifest's parts (`describe`), and files in the bundle
(`copy`): the tokenizer in the form in which transformers uses it, and the chat template that it would render.
"""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any, TypedDict

import msgspec

from pumice.errors import CheckpointError
from pumice.export.checkpoint.folder import Checkpoint
from pumice.export.checkpoint.json_file import read_json
from pumice.export.processor.generation import CONFIG_NAME, generation_defaults
from pumice.export.processor.images import describe_image_processor
from pumice.export.processor.layout import layout_source
from pumice.export.processor.load import SENTENCEPIECE_NAME, TOKENIZER_NAME, load_processor, read_processor
from pumice.export.processor.rendering import check_template
from pumice.export.processor.videos import describe_videos
from pumice.manifest import Chat, GenerationDefaults, ImageProcessing, ImageTokens, Tokens, VideoProcessing
from pumice.models.config import LlavaConfig

TEMPLATE_NAME = "chat_template.jinja"
COPIED = (
    "config.json",
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "special_tokens_map.json",
    "tokenizer_config.json",
    "video_preprocessor_config.json",
    "LICENSE",
    "LICENSE.md",
    "LICENSE.txt",
    "NOTICE",
)
"""Files that travel along as they are, where the checkpoint has them."""

_CONVERTED_GROWTH = 8
"""At most so many bytes of tokenizer.json come from one of tokenizer.model (Llama's: 4)."""


class Parts(TypedDict):
    """The manifest's fields that come from companions."""

    image: ImageProcessing
    image_tokens: ImageTokens
    video: VideoProcessing | msgspec.UnsetType
    tokens: Tokens
    chat: Chat
    generation: GenerationDefaults


def describe(checkpoint: Checkpoint, config: LlavaConfig) -> Parts:
    """The manifest's parts for a checkpoint.

    Raises:
        CheckpointError: files missing or damaged, an image processor or a setting that is not supported, or images
            and image tokens that do not fit `config`.
    """
    processor = load_processor(checkpoint.path, config)
    template = _template(processor)
    if template is not None:
        check_template(template, processor.tokenizer, checkpoint.path)
    _warn_of_ids_beyond(processor.tokenizer, checkpoint.path, config.text.vocab_size)
    _warn_of_pattern(processor.tokenizer, checkpoint.path)
    return Parts(
        image=describe_image_processor(processor.image_processor, checkpoint.path, config),
        image_tokens=_image_tokens(processor, checkpoint.path, config),
        video=describe_videos(processor, checkpoint.path, config),
        tokens=_tokens(processor.tokenizer, checkpoint),
        chat=Chat(
            tokenizer_file=TOKENIZER_NAME,
            template_file=None if template is None else TEMPLATE_NAME,
        ),
        generation=generation_defaults(
            _generation_config(checkpoint.path), checkpoint.path, config.text.vocab_size
        ),
    )


def copy(checkpoint: Checkpoint, folder: Path) -> None:
    """Write the companions into the bundle `folder`; raises as `describe`."""
    processor = read_processor(checkpoint.path)
    for name in COPIED:
        if (checkpoint.path / name).is_file():
            shutil.copyfile(checkpoint.path / name, folder / name)
    _write_tokenizer(processor.tokenizer, checkpoint.path / TOKENIZER_NAME, folder / TOKENIZER_NAME)
    template = _template(processor)
    if template is not None:
        (folder / TEMPLATE_NAME).write_bytes(template.encode())


def nbytes(checkpoint: Checkpoint) -> int:
    """About how many bytes the companions take in a bundle."""
    names = (*COPIED, TOKENIZER_NAME, TEMPLATE_NAME)
    files = [checkpoint.path / name for name in names]
    total = sum(file.stat().st_size for file in files if file.is_file())
    pieces = checkpoint.path / SENTENCEPIECE_NAME
    if not (checkpoint.path / TOKENIZER_NAME).is_file() and pieces.is_file():
        total += _CONVERTED_GROWTH * pieces.stat().st_size
    return total


def _warn_of_ids_beyond(tokenizer: Any, path: Path, rows: int) -> None:
    """Tokens that the tokenizer can make and the table lacks: the model works without, so only such prompts fail."""
    beyond = sorted((number, text) for text, number in tokenizer.get_vocab().items() if number >= rows)
    if beyond:
        logging.getLogger("pumice").warning(
            "%s: the tokenizer has %d tokens beyond the %d rows of the embedding table, from %d (%r) on: "
            "a prompt that has one is refused",
            *(path, len(beyond), rows, *beyond[0]),
        )


def _warn_of_pattern(tokenizer: Any, path: Path) -> None:
    """What transformers warns of where it reads a Mistral's files of old, and does nothing about by itself."""
    if getattr(tokenizer.backend_tokenizer, "fix_mistral_regex", None) is False:
        logging.getLogger("pumice").warning(
            "%s: tokenizer.json may split text otherwise than Mistral's own tokenizer, and transformers keeps to it: "
            'with "fix_mistral_regex": true in tokenizer_config.json it does not',
            path,
        )


def _image_tokens(processor: Any, path: Path, config: LlavaConfig) -> ImageTokens:
    """The placeholder of an image, and what it becomes, which tokenizer and model must agree upon."""
    token, model_id = processor.image_token, config.image_token_id
    vocabulary = processor.tokenizer.get_vocab()
    if not isinstance(token, str):
        raise CheckpointError(f"{path}: the processor's image_token is {token!r}, expected a text")
    if vocabulary.get(token) != model_id:
        raise CheckpointError(
            f"{path}: the image token {token!r} has id {vocabulary.get(token)} in the tokenizer "
            f"and {model_id} in config.json"
        )
    fields = layout_source(config).tokens(processor, path, config)
    return ImageTokens(token=token, token_id=model_id, **fields)


def _tokens(tokenizer: Any, checkpoint: Checkpoint) -> Tokens:
    """Special tokens' texts as the tokenizer has them; ids from generation_config.json, config.json, the tokenizer."""
    texts = {name: getattr(tokenizer, name) for name in ("bos_token", "eos_token", "unk_token", "pad_token")}
    eos = _first_ids(checkpoint, "eos_token_id", tokenizer.eos_token_id)
    pad = _first_ids(checkpoint, "pad_token_id", tokenizer.pad_token_id)
    return Tokens(**texts, eos_ids=tuple(eos), pad_id=pad[0] if pad else None)


def _first_ids(checkpoint: Checkpoint, key: str, otherwise: int | None) -> list[int]:
    """The ids that the first source has which says anything; one that is negative means none."""
    text = checkpoint.config.get("text_config") or {}
    for source in (_generation_config(checkpoint.path), checkpoint.config, text, {key: otherwise}):
        value = source.get(key)
        if value is None:
            continue
        ids = value if isinstance(value, list) else [value]
        if not all(isinstance(number, int) and not isinstance(number, bool) for number in ids):
            raise CheckpointError(f"{checkpoint.path}: {key} is {value!r}, expected an id or a list of ids")
        return [number for number in ids if number >= 0]
    return []


def _generation_config(path: Path) -> dict[str, Any]:
    file = path / CONFIG_NAME
    return read_json(file) if file.is_file() else {}


def _template(processor: Any) -> str | None:
    """The template that transformers renders; among several named ones, `default`."""
    for template in (processor.chat_template, processor.tokenizer.chat_template):
        chosen = template.get("default") if isinstance(template, dict) else template
        if chosen is not None:
            return str(chosen)
    return None


def _write_tokenizer(tokenizer: Any, original: Path, target: Path) -> None:
    """The original file where transformers uses it unchanged; else what it makes of it, or of tokenizer.model."""
    effective = tokenizer.backend_tokenizer.to_str(pretty=True)
    if original.is_file() and json.loads(original.read_bytes()) == json.loads(effective):
        shutil.copyfile(original, target)
    else:
        target.write_bytes(effective.encode())
