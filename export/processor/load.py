"""A checkpoint's processor, as transformers has it: the reference for what enters the graphs.

Enters: a checkpoint's JSON and tokenizer files. Leaves: a `LlavaProcessor`, a relative of it or a `PixtralProcessor`
that resizes with Pillow, loaded from local files and without code of the checkpoint's.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from pumice.errors import CheckpointError
from pumice.export.checkpoint.json_file import read_json
from pumice.models.config import LlavaConfig

TOKENIZER_NAME = "tokenizer.json"
SENTENCEPIECE_NAME = "tokenizer.model"
READ = (
    "added_tokens.json",
    "chat_template.json",
    "config.json",
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "special_tokens_map.json",
    "tokenizer_config.json",
    "video_preprocessor_config.json",
)
"""JSON files that transformers may read."""

_PANIC = "PanicException"
"""What Rust raises through pyo3 for a fault of its own: no Exception, and of no module that could be imported."""
_PROCESSORS = {"clip": "LlavaProcessor", "siglip": "LlavaProcessor", "pixtral": "PixtralProcessor"}
"""By vision tower, where images are not cut into tiles."""
_ONEVISION = "LlavaOnevisionProcessor"
_TILING = ("LlavaNextProcessor", "LlavaNextVideoProcessor")
_COUNTING = ("LlavaProcessor", *_TILING)
_BY_MODEL_TYPE = {"llava_onevision": _ONEVISION, "llava_next_video": "LlavaNextVideoProcessor"}
"""Of models whose processor transformers' `AutoProcessor` loads only where torchvision is installed."""
_TORCHVISION = (
    "torchvision",
    "torchvision.transforms",
    "torchvision.transforms.v2",
    "torchvision.transforms.v2.functional",
)


def load_processor(path: Path, config: LlavaConfig) -> Any:
    """transformers' own processor, which counts an image's tokens as the model does.

    Older checkpoints leave `patch_size`, `spatial_merge_size`, `vision_feature_select_strategy` or
    `num_additional_image_tokens` out of their processor's files, and transformers then counts wrongly or not at all.
    They only repeat what `config.json` says, so they are taken from there.

    Raises:
        CheckpointError: files are missing or damaged, or the processor is not the one of this kind of vision tower.
    """
    processor = read_processor(path)
    name = type(processor).__name__
    tiled = config.image_grid_pinpoints is not None
    expected = _TILING if tiled else (_PROCESSORS[config.vision.tower],)
    if config.anyres_max is not None:
        expected = (_ONEVISION,)
    if name not in expected:
        raise CheckpointError(
            f"{path} has a {name}: only {' or '.join(expected)} is supported for this model "
            "(processor_class in processor_config.json)"
        )
    if name in _COUNTING:
        processor.patch_size = config.vision.patch_size
        processor.vision_feature_select_strategy = config.vision_feature_select_strategy
        processor.num_additional_image_tokens = 1 if config.vision.tower == "clip" else 0
    elif name == _ONEVISION:
        _count_as_onevision(processor, path, config)
    else:
        _count_as_pixtral(processor, path, config)
    return processor


def _count_as_pixtral(processor: Any, path: Path, config: LlavaConfig) -> None:
    """Let it count as the model does where its file does not say how; files of March 2025 lack the merging."""
    said = processor_settings(path)
    if said.get("patch_size") is None:
        processor.patch_size = config.vision.patch_size
    if said.get("spatial_merge_size") is None:
        processor.spatial_merge_size = config.merge or 1
    # as the processor overrules it; calibration asks the image processor alone
    processor.image_processor.patch_size = {"height": config.token_side, "width": config.token_side}


def _count_as_onevision(processor: Any, path: Path, config: LlavaConfig) -> None:
    """Let it count as the model does; raises CheckpointError where its file has another `vision_aspect_ratio`."""
    own, given = f"anyres_max_{config.anyres_max}", processor_settings(path).get("vision_aspect_ratio")
    if given not in (None, own):
        raise CheckpointError(
            f"{path} has vision_aspect_ratio {given!r:.80} in processor_config.json and {own!r} in config.json: "
            "transformers counts tokens by the one and makes features by the other"
        )
    processor.vision_aspect_ratio = own
    processor.vision_feature_select_strategy = config.vision_feature_select_strategy
    # of which it subtracts one again where the strategy is `default`
    dropped = 1 if config.vision_feature_select_strategy == "default" else 0
    processor.num_image_tokens = config.vision.num_patches + dropped


def read_processor(path: Path) -> Any:
    """transformers' own processor as the files have it. Raises CheckpointError: files are missing or damaged."""
    from transformers import AutoProcessor
    from transformers.utils import logging

    _check_files(path)
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # advice about torchvision, for people who call transformers
    try:
        loader = _LOADERS.get(_class_name(path) or "", lambda: AutoProcessor)()
        return loader.from_pretrained(path, backend="pil", trust_remote_code=False, local_files_only=True)
    except BaseException as error:  # transformers and tokenizers raise whatever they raise
        if not isinstance(error, Exception) and type(error).__name__ != _PANIC:
            raise
        reason = f"{type(error).__name__} {' '.join(str(error).split())[:300]}"
        raise CheckpointError(
            f"the processor files in {path} cannot be used: transformers ends with {reason}; download them again"
        ) from None
    finally:
        logging.set_verbosity(verbosity)


def processor_settings(path: Path) -> dict[str, Any]:
    """What `processor_config.json` says; nothing where it is missing."""
    file = path / "processor_config.json"
    return read_json(file) if file.is_file() else {}


def image_processor_settings(path: Path) -> dict[str, Any]:
    """The image processor's settings as the files have them; the newer nested ones come first, as in transformers."""
    nested = processor_settings(path).get("image_processor")
    if isinstance(nested, dict):
        return nested
    file = path / "preprocessor_config.json"
    return read_json(file) if file.is_file() else {}


def _class_name(path: Path) -> str | None:
    """The processor's class, from the first file that names it, in transformers' order; else by the model's type."""
    for name in ("processor_config.json", "preprocessor_config.json", "tokenizer_config.json"):
        named = read_json(path / name).get("processor_class") if (path / name).is_file() else None
        if named is not None:
            return str(named)
    model_type = (
        read_json(path / "config.json").get("model_type") if (path / "config.json").is_file() else None
    )
    return _BY_MODEL_TYPE.get(model_type) if isinstance(model_type, str) else None


def pixtral_processor() -> Any:
    """transformers' `PixtralProcessor`, with or without torchvision.

    Its module imports torchvision, for another image processor than the one that it is given here. Where torchvision is
    missing, empty modules take its place while the module is imported.
    """
    from transformers.utils import is_torchvision_available

    stand_ins = {} if is_torchvision_available() else {name: ModuleType(name) for name in _TORCHVISION}
    for name, module in stand_ins.items():
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(stand_ins[parent], child, module)
    sys.modules.update(stand_ins)
    try:
        module = importlib.import_module("transformers.models.pixtral.processing_pixtral")
    finally:
        for name in stand_ins:
            del sys.modules[name]
    return module.PixtralProcessor


def onevision_processor() -> Any:
    """transformers' `LlavaOnevisionProcessor` for images: videos are for another, which needs torchvision."""
    from transformers import LlavaOnevisionProcessor

    class ForImages(LlavaOnevisionProcessor):
        @classmethod
        def get_attributes(cls) -> list[str]:
            return ["image_processor", "tokenizer"]

    ForImages.__name__ = ForImages.__qualname__ = _ONEVISION  # transformers and messages go by it
    return ForImages


def next_video_processor() -> Any:
    """transformers' `LlavaNextVideoProcessor` for images, likewise; there the processor of videos comes first."""
    from transformers import LlavaNextVideoProcessor
    from transformers.processing_utils import ProcessorMixin

    class WithoutVideos(ProcessorMixin):
        """What `LlavaNextVideoProcessor` hands its three parts on to."""

        def __init__(self, _: Any, image_processor: Any, tokenizer: Any, **settings: Any) -> None:
            super().__init__(image_processor, tokenizer, **settings)

    class ForImages(LlavaNextVideoProcessor, WithoutVideos):
        def __init__(  # its arguments are read by name
            self,
            image_processor: Any = None,
            tokenizer: Any = None,
            chat_template: Any = None,
            patch_size: Any = None,
            vision_feature_select_strategy: Any = None,
            video_token: str = "<video>",
            image_token: str = "<image>",
            num_additional_image_tokens: int = 0,
        ) -> None:
            super().__init__(
                None,
                image_processor,
                tokenizer,
                chat_template=chat_template,
                patch_size=patch_size,
                vision_feature_select_strategy=vision_feature_select_strategy,
                video_token=video_token,
                image_token=image_token,
                num_additional_image_tokens=num_additional_image_tokens,
            )

    ForImages.__name__ = ForImages.__qualname__ = "LlavaNextVideoProcessor"
    return ForImages


_LOADERS = {
    "PixtralProcessor": pixtral_processor,
    _ONEVISION: onevision_processor,
    "LlavaNextVideoProcessor": next_video_processor,
}
"""Of classes that transformers' `AutoProcessor` loads only where torchvision is installed."""


def _check_files(path: Path) -> None:
    """What must be there is, JSON files hold objects, and none asks for code of its own."""
    contents = {name: read_json(path / name) for name in READ if (path / name).exists()}
    for name, content in contents.items():
        if content.get("auto_map"):
            raise CheckpointError(
                f"{path / name} asks for code of its own (auto_map): pumice never runs a checkpoint's code"
            )
    if not (path / TOKENIZER_NAME).is_file() and not (path / SENTENCEPIECE_NAME).is_file():
        raise CheckpointError(
            f"{path} has no {TOKENIZER_NAME} and no {SENTENCEPIECE_NAME}: expected the tokenizer beside the weights"
        )
    nested = contents.get("processor_config.json", {}).get("image_processor")
    if "preprocessor_config.json" not in contents and not nested:
        raise CheckpointError(
            f"{path} has neither preprocessor_config.json nor an image_processor in processor_config.json: "
            "expected one that says how images are resized and normalised"
        )
