"""What travels along with the weights: tokenizer, chat template, preprocessing and generation defaults.

Enters: a checkpoint's JSON files, as transformers' `AutoProcessor` understands them (it is the reference: its defaults,
its precedence among files, its older spellings). Leaves: the manifest's parts (`describe`), and files in the bundle
(`copy`): the tokenizer in the form in which transformers uses it, and the chat template that it would render.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, TypedDict

from pumice.errors import CheckpointError
from pumice.export.checkpoint import Checkpoint, read_json
from pumice.manifest import Chat, GenerationDefaults, ImageProcessing, ImageTokens, Tokens
from pumice.models.config import LlavaConfig

TOKENIZER_NAME = "tokenizer.json"
TEMPLATE_NAME = "chat_template.jinja"
COPIED = (
    "config.json",
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "special_tokens_map.json",
    "tokenizer_config.json",
    "LICENSE",
    "LICENSE.md",
    "LICENSE.txt",
    "NOTICE",
)
"""Files that travel along as they are, where the checkpoint has them."""

_PROCESSORS = ("CLIPImageProcessor", "CLIPFeatureExtractor", "LlavaImageProcessor")
_PROCESSOR_LABELS = {
    "image_processor_type",
    "feature_extractor_type",
    "processor_class",
    "_valid_processor_keys",
}


class Parts(TypedDict):
    """The manifest's fields that come from companions."""

    image: ImageProcessing
    image_tokens: ImageTokens
    tokens: Tokens
    chat: Chat
    generation: GenerationDefaults


def describe(checkpoint: Checkpoint, config: LlavaConfig) -> Parts:
    """The manifest's parts for a checkpoint.

    Raises:
        CheckpointError: files missing or damaged, an image processor or a setting that is not supported, or pictures
            and image tokens that do not fit `config`.
    """
    processor = _load_processor(checkpoint.path)
    size = config.vision.image_size
    return Parts(
        image=_image_processing(processor.image_processor, checkpoint.path, size),
        image_tokens=_image_tokens(processor, checkpoint.path, config),
        tokens=_tokens(processor.tokenizer, checkpoint),
        chat=Chat(
            tokenizer_file=TOKENIZER_NAME,
            template_file=None if _template(processor) is None else TEMPLATE_NAME,
        ),
        generation=_generation_defaults(checkpoint.path),
    )


def copy(checkpoint: Checkpoint, folder: Path) -> None:
    """Write the companions into the bundle `folder`; raises as `describe`."""
    processor = _load_processor(checkpoint.path)
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
    return sum(file.stat().st_size for file in files if file.is_file())


def _load_processor(path: Path) -> Any:
    """transformers' own processor, from local files and without code of the checkpoint's."""
    from transformers import AutoProcessor
    from transformers.utils import logging

    _check_files(path)
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # advice about torchvision, for people who call transformers
    try:
        processor = AutoProcessor.from_pretrained(path, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # transformers and tokenizers raise whatever they raise
        reason = " ".join(str(error).split())[:300]
        raise CheckpointError(f"the processor files in {path} cannot be used: {reason}") from None
    finally:
        logging.set_verbosity(verbosity)
    if type(processor).__name__ != "LlavaProcessor":
        raise CheckpointError(f"{path} has a {type(processor).__name__}: only LlavaProcessor is supported")
    return processor


def _check_files(path: Path) -> None:
    """What must be there is, JSON files hold objects, and none asks for code of its own."""
    names = [
        name for name in (*COPIED, "chat_template.json") if name.endswith(".json") and (path / name).exists()
    ]
    contents = {name: read_json(path / name) for name in names}
    for name, content in contents.items():
        if content.get("auto_map"):
            raise CheckpointError(
                f"{path / name} asks for code of its own (auto_map): pumice never runs a checkpoint's code"
            )
    if not (path / TOKENIZER_NAME).is_file() and not (path / "tokenizer.model").is_file():
        raise CheckpointError(f"{path} has no {TOKENIZER_NAME}: expected the tokenizer beside the weights")
    nested = contents.get("processor_config.json", {}).get("image_processor")
    if "preprocessor_config.json" not in contents and not nested:
        raise CheckpointError(
            f"{path} has neither preprocessor_config.json nor an image_processor in processor_config.json: "
            "expected one that says how pictures are resized and normalised"
        )


def _image_processing(processor: Any, path: Path, size: int) -> ImageProcessing:
    """transformers' image processor as the manifest's steps; `size` is what the vision tower takes, in pixels."""
    name = type(processor).__name__.removesuffix("Pil").removesuffix("Fast")
    if name not in _PROCESSORS:
        raise CheckpointError(
            f"{path} has the image processor {name}: supported are {', '.join(_PROCESSORS)}"
        )
    known = set(processor.valid_kwargs.__annotations__) | _PROCESSOR_LABELS
    unknown = sorted(
        key for key, value in _raw_settings(path).items() if key not in known and value is not None
    )
    if unknown:
        raise CheckpointError(
            f"the image processor in {path} has settings that are not known: {', '.join(unknown)}"
        )
    if processor.do_pad:
        raise CheckpointError(
            f"the image processor in {path} has do_pad: padding pictures is not supported yet"
        )
    edge, to = _resized(processor.size, path) if processor.do_resize else (None, None)
    crop = _sides(processor.crop_size) if processor.do_center_crop else None
    final = crop or to
    if final != (size, size):
        raise CheckpointError(
            f"the image processor in {path} makes pictures of {final or 'any size'}, "
            f"but the vision tower takes {(size, size)} (height, width)"
        )
    normalises = processor.do_normalize
    return ImageProcessing(
        convert_rgb=bool(processor.do_convert_rgb),
        resize_shortest_edge=edge,
        resize_to=to,
        resample=int(processor.resample),
        crop_to=crop,
        rescale_factor=float(processor.rescale_factor) if processor.do_rescale else None,
        mean=_channels(processor.image_mean) if normalises else None,
        std=_channels(processor.image_std) if normalises else None,
        size=final,
    )


def _raw_settings(path: Path) -> dict[str, Any]:
    """The image processor's settings as the files have them; the newer nested ones come first, as in transformers."""
    for name, key in (("processor_config.json", "image_processor"), ("preprocessor_config.json", None)):
        if (path / name).is_file():
            content = read_json(path / name)
            settings = content if key is None else content.get(key)
            if isinstance(settings, dict):
                return settings
    return {}


def _resized(size: Any, path: Path) -> tuple[int | None, tuple[int, int] | None]:
    """(shortest edge, None) or (None, (height, width)), in pixels."""
    given = {key: value for key, value in dict(size).items() if value is not None}
    if given.keys() == {"shortest_edge"}:
        return int(given["shortest_edge"]), None
    if given.keys() == {"height", "width"}:
        return None, _sides(size)
    raise CheckpointError(
        f"the image processor in {path} resizes to {given}: supported are shortest_edge, or height and width"
    )


def _sides(size: Any) -> tuple[int, int]:
    return int(size.height), int(size.width)


def _channels(value: Any) -> tuple[float, ...]:
    return (
        (float(value),) * 3 if isinstance(value, int | float) else tuple(float(channel) for channel in value)
    )


def _image_tokens(processor: Any, path: Path, config: LlavaConfig) -> ImageTokens:
    """The placeholder of a picture, which tokenizer and model must agree upon."""
    token, model_id = processor.image_token, config.image_token_id
    tokenizer_id = processor.tokenizer.get_vocab().get(token)
    if tokenizer_id != model_id:
        raise CheckpointError(
            f"{path}: the image token {token!r} has id {tokenizer_id} in the tokenizer and {model_id} in config.json"
        )
    return ImageTokens(token=token, token_id=model_id, per_image=config.tokens_per_image)


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


def _generation_defaults(path: Path) -> GenerationDefaults:
    tokens = _generation_config(path).get("max_new_tokens")
    if tokens is None:
        return GenerationDefaults()
    if isinstance(tokens, bool) or not isinstance(tokens, int) or tokens < 1:
        raise CheckpointError(
            f"{path}/generation_config.json: max_new_tokens is {tokens!r}, expected 1 or more"
        )
    return GenerationDefaults(max_new_tokens=tokens)


def _generation_config(path: Path) -> dict[str, Any]:
    file = path / "generation_config.json"
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
