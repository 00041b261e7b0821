"""What pebble is: its sizes, and the files that make a folder of weights a Hugging Face checkpoint.

Leaves: an untrained `LlavaForConditionalGeneration` (`build`), and `save`, which writes model, tokenizer and processor
files in the layout of the public llava-hf releases.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import nn
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from pebble.tokenizer import BOS, EOS, IMAGE, PAD, SPECIALS, VOCABULARY

IMAGE_SIZE = 120
PATCH_SIZE = 20
IMAGE_TOKENS = (IMAGE_SIZE // PATCH_SIZE) ** 2
FEATURE_LAYER = -2
WORD_RMS = 0.5
"""Size of the untrained embedding table's rows, to which the projector's output is scaled."""
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)

# LLaVA-1.5's template: pictures first, then text; an assistant's turn ends without </s> in the history.
CHAT_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] != 'system' %}{{ message['role'].upper() + ': '}}{% endif %}"
    "{# Render all images first #}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\\n' }}{% endfor %}"
    "{# Render all text next #}{% if message['role'] != 'assistant' %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{{ content['text'] + ' '}}{% endfor %}{% else %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{% generation %}{{ content['text'] + ' '}}{% endgeneration %}{% endfor %}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)


def config() -> LlavaConfig:
    """The sizes: 3.1 million parameters, widths that blocks of 32 divide; a third of a picture is two patches wide."""
    vision = CLIPVisionConfig(
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=5,  # the feature layer is the last but one, as in LLaVA-1.5: four are run
        num_attention_heads=4,
        image_size=IMAGE_SIZE,
        patch_size=PATCH_SIZE,
        hidden_act="quick_gelu",
        projection_dim=128,
    )
    text = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=192,
        intermediate_size=384,
        num_hidden_layers=5,
        num_attention_heads=6,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        rms_norm_eps=1e-5,
        bos_token_id=BOS,
        eos_token_id=EOS,
        pad_token_id=PAD,
        tie_word_embeddings=False,
    )
    return LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=IMAGE,
        image_seq_length=IMAGE_TOKENS,
        projector_hidden_act="gelu",
        vision_feature_layer=FEATURE_LAYER,
        vision_feature_select_strategy="default",
        pad_token_id=PAD,
    )


def build(seed: int) -> LlavaForConditionalGeneration:
    """An untrained model: matrices drawn with deviation 1/sqrt(inputs), which suits small widths, norms at one."""
    torch.manual_seed(seed)
    model = LlavaForConditionalGeneration(config())
    for name, parameter in model.named_parameters():
        if "embed" in name or name.endswith("position_embedding.weight"):
            nn.init.normal_(parameter, std=WORD_RMS)
        elif parameter.dim() > 1:
            fan_in = parameter[0].numel()
            nn.init.normal_(parameter, std=fan_in**-0.5)
    layers = model.config.text_config.num_hidden_layers
    for name, parameter in model.named_parameters():
        if name.endswith(("o_proj.weight", "down_proj.weight", "out_proj.weight", "fc2.weight")):
            parameter.data.mul_((2 * layers) ** -0.5)  # the residual stream keeps its size with depth
    return model


def save(model: LlavaForConditionalGeneration, tokenizer: Tokenizer, folder: Path) -> None:
    """Write a complete checkpoint, weights in float16."""
    folder.mkdir(parents=True, exist_ok=True)
    half = LlavaForConditionalGeneration(config())
    half.load_state_dict(model.state_dict())
    half.to(torch.float16).save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    for name, content in _files().items():
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")


def _files() -> dict[str, dict[str, Any]]:
    specials = dict(zip(("unk_token", "bos_token", "eos_token", "pad_token"), SPECIALS, strict=False))
    return {
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "processor_class": "LlavaProcessor",
            "model_max_length": 2048,
            "clean_up_tokenization_spaces": False,
            "padding_side": "left",
            "image_token": SPECIALS[IMAGE],
            **specials,
        },
        "special_tokens_map.json": specials,
        "preprocessor_config.json": {
            "image_processor_type": "CLIPImageProcessor",
            "processor_class": "LlavaProcessor",
            "do_convert_rgb": True,
            "do_resize": True,
            "size": {"shortest_edge": IMAGE_SIZE},
            "resample": 3,
            "do_center_crop": True,
            "crop_size": {"height": IMAGE_SIZE, "width": IMAGE_SIZE},
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": list(MEAN),
            "image_std": list(STD),
        },
        "processor_config.json": {
            "processor_class": "LlavaProcessor",
            "image_token": SPECIALS[IMAGE],
            "patch_size": PATCH_SIZE,
            "vision_feature_select_strategy": "default",
            "num_additional_image_tokens": 1,
        },
        "generation_config.json": {
            "bos_token_id": BOS,
            "eos_token_id": EOS,
            "pad_token_id": PAD,
            "do_sample": False,
            "max_new_tokens": 128,
        },
    }
