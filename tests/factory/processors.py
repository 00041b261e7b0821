"""The files of a checkpoint's processor: images, tokenizer settings, chat template."""

from __future__ import annotations

from typing import Any

from tests.factory.parts import Llava

OPENAI_MEAN, OPENAI_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def processor_files(model: Llava, old: bool) -> dict[str, dict[str, Any]]:
    """By file name. `old` releases have a file for images and a template in two places, newer ones one file."""
    pixtral = model.vision.tower == "pixtral"
    kind = _class(model)
    processor: dict[str, Any] = {"processor_class": kind}
    if model.anyres_max is not None:
        processor |= _onevision_tokens(model, old)
    else:
        processor |= {"patch_size": model.vision.patch_size}
        processor |= _pixtral_tokens() if pixtral else _llava_tokens(model)
        processor |= {"spatial_merge_size": model.merge} if model.merge is not None else {}
    settings: dict[str, Any] = {
        **model.vocabulary.named,
        "model_max_length": model.text.context,
        "clean_up_tokenization_spaces": False,
        "padding_side": "left",
        "processor_class": kind,
        "tokenizer_class": "PreTrainedTokenizerFast" if old else "TokenizersBackend",
    }
    images = _image_processor(model)
    if not old:
        videos = {"video_processor": _video_processor(model)} if model.vocabulary.video else {}
        return {
            "tokenizer_config.json": settings,
            "processor_config.json": {**processor, "image_processor": images, **videos},
        }
    return {
        "tokenizer_config.json": {**settings, "chat_template": model.template},
        "special_tokens_map.json": dict(model.vocabulary.named),
        "preprocessor_config.json": {**images, "processor_class": kind},
        "processor_config.json": processor,
        "chat_template.json": {"chat_template": model.template},
    }


def _class(model: Llava) -> str:
    if model.vision.tower == "pixtral":
        return "PixtralProcessor"
    if model.pinpoints is None:
        return "LlavaProcessor"
    if model.video_pool is not None:
        return "LlavaNextVideoProcessor"
    return "LlavaNextProcessor" if model.anyres_max is None else "LlavaOnevisionProcessor"


def _onevision_tokens(model: Llava, old: bool) -> dict[str, Any]:
    """Releases leave `vision_aspect_ratio` out, which is 9 then."""
    own = {} if old and model.anyres_max == 9 else {"vision_aspect_ratio": f"anyres_max_{model.anyres_max}"}
    return {
        "image_token": model.vocabulary.image,
        "video_token": "<video>",
        "num_image_tokens": model.vision.patches + (1 if model.strategy == "default" else 0),
        "vision_feature_select_strategy": model.strategy,
    } | own


def _llava_tokens(model: Llava) -> dict[str, Any]:
    return {
        "image_token": model.vocabulary.image,
        "vision_feature_select_strategy": model.strategy,
        "num_additional_image_tokens": model.class_tokens,
    }


def _pixtral_tokens() -> dict[str, Any]:
    return {"image_token": "[IMG]", "image_break_token": "[IMG_BREAK]", "image_end_token": "[IMG_END]"}


def _image_processor(model: Llava) -> dict[str, Any]:
    v = model.vision
    square = {"height": v.image_size, "width": v.image_size}
    common = {
        "do_convert_rgb": True,
        "do_resize": True,
        "resample": 3,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
    }
    if model.pinpoints is not None:
        return _next_image_processor(model, common)
    if v.tower == "siglip":
        means = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
        return {"image_processor_type": "SiglipImageProcessor", **common, "size": square, **means}
    means = {"image_mean": list(OPENAI_MEAN), "image_std": list(OPENAI_STD)}
    if v.tower == "pixtral":
        patch = {"height": v.patch_size, "width": v.patch_size}
        sizes = {"size": {"longest_edge": v.image_size}, "patch_size": patch}
        return {"image_processor_type": "PixtralImageProcessor", **common, **sizes, **means}
    sizes = {"size": {"shortest_edge": v.image_size}, "do_center_crop": True, "crop_size": square}
    return {"image_processor_type": "CLIPImageProcessor", **common, **sizes, **means}


def _video_processor(model: Llava) -> dict[str, Any]:
    """What its class does not have by itself; older releases leave it to the image processor's file."""
    v = model.vision
    square = {"height": v.image_size, "width": v.image_size}
    if model.anyres_max is None:
        crop = {"size": {"shortest_edge": v.image_size}, "crop_size": square}
        return {"video_processor_type": "LlavaNextVideoVideoProcessor", **crop}
    means = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    return {"video_processor_type": "LlavaOnevisionVideoProcessor", "size": square, **means}


def _next_image_processor(model: Llava, common: dict[str, Any]) -> dict[str, Any]:
    """As releases have it: CLIP's with a shortest edge, SigLIP's with both sides."""
    v = model.vision
    square = {"height": v.image_size, "width": v.image_size}
    size: dict[str, Any] = {"size": square, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    if v.tower == "clip":
        size = {"size": {"shortest_edge": v.image_size}}
        size |= {"image_mean": list(OPENAI_MEAN), "image_std": list(OPENAI_STD)}
    tiles = {"do_pad": True, "image_grid_pinpoints": [list(pair) for pair in model.pinpoints or ()]}
    if model.anyres_max is not None:
        return {"image_processor_type": "LlavaOnevisionImageProcessor", **common, **size, **tiles}
    crop = {"do_center_crop": True, "crop_size": square}
    return {"image_processor_type": "LlavaNextImageProcessor", **common, **size, **crop, **tiles}
