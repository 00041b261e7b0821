"""The two things that pebble learns, a step at a time: to see, and to answer."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from pebble.architecture import FEATURE_LAYER, WORD_RMS, build
from pebble.curriculum import Batch, draw_patches
from pebble.packing import IGNORED
from pebble.pool import Pool, normalise
from pebble.scenes import COLOURS, KINDS, SIZES
from pebble.tokenizer import IMAGE

PATCH_CLASSES = (len(KINDS) + 1, len(COLOURS) + 1, len(SIZES) + 1, 9)
"""What is learned of a patch's grid cell: kind, colour and size of its shape (or none), and which cell it is."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides the outcome. Rates rise over `warm_up` steps and fall as a cosine to a fiftieth.

    Answering is learned in two such rounds, the second of `polishing_steps` and on what is hardest.
    """

    seed: int = 7
    scenes: int = 40_000
    pairs: int = 10_000
    seeing_steps: int = 2_500
    seeing_batch: int = 64
    seeing_rate: float = 1e-3
    answering_steps: int = 6_000
    answering_rate: float = 1e-3
    polishing_steps: int = 3_200
    polishing_rate: float = 8e-4
    warm_up: int = 200
    weight_decay: float = 0.02
    ema: float = 0.998


class Trainer:
    """The model, the average of its weights, its optimisers, and where training stands."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.model = build(recipe.seed)
        width = self.model.config.vision_config.hidden_size
        self.heads = nn.ModuleList(nn.Linear(width, count) for count in PATCH_CLASSES)
        tower = [*self.model.model.vision_tower.parameters(), *self.heads.parameters()]
        speaking = [p for n, p in self.model.named_parameters() if "vision_tower" not in n]
        self.optimizers = [self._optimizer(tower), self._optimizer(speaking)]
        self.average = {
            n: p.detach().clone() for n, p in self.model.named_parameters() if "vision_tower" not in n
        }
        self.seeing_step = self.answering_step = 0

    def _optimizer(self, parameters: list[nn.Parameter]) -> torch.optim.AdamW:
        matrices = [p for p in parameters if p.dim() > 1]
        vectors = [p for p in parameters if p.dim() <= 1]
        decayed = {"params": matrices, "weight_decay": self.recipe.weight_decay}
        return torch.optim.AdamW(
            [decayed, {"params": vectors, "weight_decay": 0.0}], betas=(0.9, 0.98), fused=True
        )

    def learn_to_see(self, pool: Pool) -> float:
        """One step of the vision tower: what stands in each patch's cell. The share of cells' shapes wholly right."""
        recipe, step = self.recipe, self.seeing_step
        pixels, labels = draw_patches(pool, step, recipe.seed, recipe.seeing_batch)
        with torch.autocast("cpu", torch.bfloat16):
            features = tower_features(self.model, pixels)
            guesses = [head(features) for head in self.heads]
        losses = [
            F.cross_entropy(g.float().flatten(0, 1), labels[..., i].flatten()) for i, g in enumerate(guesses)
        ]
        rate = recipe.seeing_rate * self._schedule(step, recipe.seeing_steps)
        self._update(0, torch.stack(losses).sum(), rate)
        self.seeing_step += 1
        right = torch.stack([g.argmax(-1) == labels[..., i] for i, g in enumerate(guesses)]).all(0)
        return float(right[labels[..., 0] > 0].float().mean())

    def learn_to_answer(self, batch: Batch) -> float:
        """One step of projector and text model, the tower's features given; the loss in nats per answer token."""
        recipe, step = self.recipe, self.answering_step
        with torch.autocast("cpu", torch.bfloat16):
            loss = answer_loss(self.model, batch)
        self._update(1, loss, self._answering_rate(step))
        self.answering_step += 1
        decay = min(recipe.ema, (1 + step) / (10 + step))
        with torch.no_grad():
            for name, value in self.model.named_parameters():
                if name in self.average:
                    self.average[name].lerp_(value, 1 - decay)
        return float(loss.detach())

    def _answering_rate(self, step: int) -> float:
        recipe = self.recipe
        if step < recipe.answering_steps:
            return recipe.answering_rate * self._schedule(step, recipe.answering_steps)
        polished = step - recipe.answering_steps
        return recipe.polishing_rate * self._schedule(polished, recipe.polishing_steps)

    def _schedule(self, step: int, steps: int) -> float:
        cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, step / steps)))
        return min(1.0, (step + 1) / self.recipe.warm_up) * (0.02 + 0.98 * cosine)

    def _update(self, which: int, loss: Tensor, rate: float) -> None:
        optimizer = self.optimizers[which]
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_([p for g in optimizer.param_groups for p in g["params"]], 1.0)
        optimizer.step()

    @torch.no_grad()
    def look(self, pixels: NDArray[np.uint8]) -> NDArray[np.float16]:
        """The tower's features of some pictures, float16 [N, tokens, D]."""
        return tower_features(self.model, torch.from_numpy(normalise(pixels))).half().numpy()

    @torch.no_grad()
    def scale_projector(self, features: Tensor) -> None:
        """Give pictures the size of words: unit variance inside the projector, the embedding table's outside."""
        projector = self.model.model.multi_modal_projector
        projector.linear_1.weight.div_(projector.linear_1(features).std())
        projector.linear_2.weight.mul_(WORD_RMS / projector(features).std())

    def averaged(self) -> Any:
        """A model with the averaged weights."""
        model = build(self.recipe.seed)
        model.load_state_dict(self.model.state_dict() | self.average)
        return model

    def state(self) -> dict[str, Any]:
        """All that a later run needs; batches are drawn from the step's number, so no generator is kept."""
        return {
            "recipe": asdict(self.recipe),
            "model": self.model.state_dict(),
            "heads": self.heads.state_dict(),
            "average": self.average,
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "steps": (self.seeing_step, self.answering_step),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state of the same recipe."""
        self.model.load_state_dict(state["model"])
        self.heads.load_state_dict(state["heads"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.average, (self.seeing_step, self.answering_step) = state["average"], state["steps"]


def tower_features(model: Any, pixels_NCHW: Tensor) -> Tensor:
    """What the projector is given: the feature layer without its class token, [N, tokens, D]."""
    states = model.model.vision_tower(pixels_NCHW, output_hidden_states=True).hidden_states
    features: Tensor = states[FEATURE_LAYER][:, 1:]
    return features


def answer_loss(model: Any, batch: Batch) -> Tensor:
    """Cross-entropy of answers' tokens; a long answer weighs the square root of its length, not its length."""
    packed = batch.packed
    pictures = model.model.multi_modal_projector(batch.features).flatten(0, 1)
    embeds = model.get_input_embeddings()(packed.input_ids)
    embeds = embeds.masked_scatter((packed.input_ids == IMAGE)[..., None], pictures.to(embeds.dtype))
    hidden = model.model.language_model(
        inputs_embeds=embeds, attention_mask=packed.visible, position_ids=packed.position_ids, use_cache=False
    ).last_hidden_state
    learned = packed.labels != IGNORED
    logits = model.lm_head(hidden[learned]).float()
    losses = F.cross_entropy(logits, packed.labels[learned], reduction="none")
    weights = packed.weights[learned]
    return (losses * weights).sum() / weights.sum()
