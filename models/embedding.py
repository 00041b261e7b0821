"""The embedding merge: token ids and image rows → `inputs_embeds`, in one graph for prompt and decode steps."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pumice.models.config import LlavaConfig
from pumice.models.layers import parameter


class EmbeddingMerge(nn.Module):
    """Looks token ids up, and puts the rows of `image_features`, in order, where the image token stands, or a video's.

    input_ids        USER  :  <image> <image>  What  is …
    inputs_embeds     e0   e1    f0      f1     e4   e5 …
    """

    def __init__(self, config: LlavaConfig) -> None:
        super().__init__()
        self.weight = parameter(config.text.vocab_size, config.text.hidden_size)
        self.image_token_id = config.image_token_id
        self.video_token_id = None if config.video is None else config.video.token_id

    def forward(self, input_ids: Tensor, image_features: Tensor) -> Tensor:
        """`input_ids` int64 [B, T], `image_features` [M, D] with M ≥ 0 rows → `inputs_embeds` [B, T, D].

        Image tokens beyond M keep the table's row, as transformers' do where there is no image; surplus rows are
        not used.
        """
        embeds = nn.functional.embedding(input_ids, self.weight).to(image_features.dtype)
        is_image = input_ids == self.image_token_id
        if self.video_token_id is not None:
            is_image = is_image | (input_ids == self.video_token_id)
        # A row of zeros in front keeps the gather valid for M = 0; the others are counted from 1.
        rows = torch.cat((image_features.new_zeros(1, image_features.shape[1]), image_features))
        order = torch.cumsum(is_image.flatten().to(torch.int64), dim=0).view_as(input_ids)
        is_image = is_image & (order <= image_features.shape[0])
        features = nn.functional.embedding(order * is_image, rows)
        return torch.where(is_image[..., None], features, embeds)
