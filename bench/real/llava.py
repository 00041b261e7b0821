"""A language model becomes a LLaVA: pebble's CLIP tower before it, and a random projector between.

Enters: a `LlamaForCausalLM` and its tokenizer. Leaves: a `LlavaForConditionalGeneration` in the same dtype, and its
processor. Images mean nothing to this model: its language is what is real.

The table gets rows for `<image>` and up to a multiple of 64, as in released checkpoints. They are the mean of all rows,
so that their logit is the mean of all logits, and never the largest.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from bench.real.tokenizer import IMAGE, special, with_images

TOWER = Path(__file__).parents[2] / "pebble" / "checkpoint"
_ROWS = 64


def make_llava(
    llama: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    """The model and its processor; `tokenizer` learns `<image>`."""
    torch.manual_seed(0)
    tokenizer.add_special_tokens({"additional_special_tokens": [special(IMAGE)]})
    tokenizer.chat_template = with_images(tokenizer.chat_template)
    config = _config(llama.config, tokenizer)
    model = LlavaForConditionalGeneration(config)
    with torch.no_grad():
        _fill_text(model, llama)
        tower = LlavaForConditionalGeneration.from_pretrained(TOWER, dtype=torch.float32).model.vision_tower
        model.model.vision_tower.load_state_dict(tower.state_dict())
        _fit_projector(model, llama.model.embed_tokens.weight.float())
    text = config.text_config
    model.generation_config.update(
        bos_token_id=text.bos_token_id, eos_token_id=text.eos_token_id, pad_token_id=text.pad_token_id
    )
    return model.to(llama.dtype), _processor(config.vision_config, tokenizer)


def _config(llama: LlamaConfig, tokenizer: PreTrainedTokenizerFast) -> LlavaConfig:
    text = LlamaConfig(**llama.to_dict())
    text.vocab_size = -(-len(tokenizer) // _ROWS) * _ROWS
    seen = CLIPVisionConfig(**json.loads((TOWER / "config.json").read_text())["vision_config"])
    return LlavaConfig(
        vision_config=seen,
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE),
        image_seq_length=(seen.image_size // seen.patch_size) ** 2,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        tie_word_embeddings=text.tie_word_embeddings,
        pad_token_id=text.pad_token_id,
    )


def _fill_text(model: LlavaForConditionalGeneration, llama: LlamaForCausalLM) -> None:
    """The language model's weights, its table and head with more rows."""
    state = {name: tensor.float() for name, tensor in llama.model.state_dict().items()}
    table = state["embed_tokens.weight"]
    more = table.mean(0, keepdim=True).expand(model.config.text_config.vocab_size - len(table), -1)
    state["embed_tokens.weight"] = torch.cat([table, more])
    model.model.language_model.load_state_dict(state)
    if not model.config.tie_word_embeddings:
        head = llama.lm_head.weight.float()
        model.lm_head.weight.copy_(torch.cat([head, head.mean(0, keepdim=True).expand_as(more)]))
    model.tie_weights()


def _fit_projector(model: LlavaForConditionalGeneration, table_VD: torch.Tensor) -> None:
    """Random matrices that keep lengths; the last is scaled, so that features are as long as embeddings in the mean."""
    projector, seen = model.model.multi_modal_projector, model.config.vision_config
    for linear in (projector.linear_1, projector.linear_2):
        torch.nn.init.normal_(linear.weight, std=linear.in_features**-0.5)
        torch.nn.init.zeros_(linear.bias)
    side = (seen.image_size, seen.image_size)
    pixels_NCHW = torch.nn.functional.interpolate(torch.randn(8, 3, 6, 6), size=side, mode="bicubic")
    features_MD = torch.cat(list(model.get_image_features(pixel_values=pixels_NCHW).pooler_output))
    projector.linear_2.weight *= table_VD.norm(dim=1).mean() / features_MD.norm(dim=1).mean()


def _processor(seen: CLIPVisionConfig, tokenizer: PreTrainedTokenizerFast) -> LlavaProcessor:
    """As a LLaVA of 2023 has it: the shorter edge to the tower's size, and the middle of it."""
    side = seen.image_size
    return LlavaProcessor(
        image_processor=CLIPImageProcessor(
            size={"shortest_edge": side}, crop_size={"height": side, "width": side}
        ),
        tokenizer=tokenizer,
        patch_size=seen.patch_size,
        vision_feature_select_strategy="default",
        chat_template=tokenizer.chat_template,
        image_token=IMAGE,
        num_additional_image_tokens=1,
    )
