"""Trains pebble from nothing: `python -m pebble.train`. Seeded, resumable, about an hour on two cores.

1. The vision tower learns what each patch shows (kind, colour, size) through three linear heads, then thrown away.
2. The whole learns to answer packed questions (`pebble.packing`, `pebble.curriculum`).

State goes to `pebble/.work`; a run that was interrupted goes on where the last state was saved.
"""

from __future__ import annotations

import argparse
import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import LlavaForConditionalGeneration

from pebble.architecture import FEATURE_LAYER, build, save
from pebble.curriculum import Batch, ask_pair, ask_scene, draw_batch, draw_patches
from pebble.packing import IGNORED, Packer
from pebble.pairs import sample_pair
from pebble.pool import Pool, draw_pool
from pebble.scenes import COLOURS, KINDS, SIZES, sample_scene
from pebble.tokenizer import IMAGE, train_tokenizer

HERE = Path(__file__).parent
WORK = HERE / ".work"
CHECKPOINT = HERE / "checkpoint"
PATCH_CLASSES = (len(KINDS) + 1, len(COLOURS) + 1, len(SIZES) + 1)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides the outcome. Learning rates are peaks of a cosine schedule with linear warm-up."""

    seed: int = 7
    scenes: int = 40_000
    pairs: int = 10_000
    vision_steps: int = 800
    vision_batch: int = 48
    vision_rate: float = 1e-3
    steps: int = 6_000
    rate: float = 1.5e-3
    warm_up: int = 200
    weight_decay: float = 0.05
    ema: float = 0.998
    save_every: int = 500


class Trainer:
    """The model, its average, its optimiser, and where training stands."""

    def __init__(self, recipe: Recipe, tokenizer: Tokenizer) -> None:
        self.recipe, self.tokenizer = recipe, tokenizer
        self.model = build(recipe.seed)
        self.average = {name: value.detach().clone() for name, value in self.model.named_parameters()}
        self.heads = nn.ModuleList(
            nn.Linear(self.model.config.vision_config.hidden_size, count) for count in PATCH_CLASSES
        )
        self.optimizer = self._optimizer()
        self.vision_step = self.step = 0

    def _optimizer(self) -> torch.optim.AdamW:
        parameters = [*self.model.parameters(), *self.heads.parameters()]
        decayed = [p for p in parameters if p.dim() > 1]
        others = [p for p in parameters if p.dim() <= 1]
        groups = [
            {"params": decayed, "weight_decay": self.recipe.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(groups, betas=(0.9, 0.98), eps=1e-8)

    def learn_patches(self, pool: Pool) -> float:
        """One step of the vision tower's warm-up; the share of shapes' patches whose kind is right."""
        recipe = self.recipe
        pixels, labels = draw_patches(pool, self.vision_step, recipe.seed, recipe.vision_batch)
        with torch.autocast("cpu", torch.bfloat16):
            states = self.model.model.vision_tower(pixels, output_hidden_states=True).hidden_states
            guesses = [head(states[FEATURE_LAYER][:, 1:]) for head in self.heads]
        losses = [
            F.cross_entropy(g.float().flatten(0, 1), labels[..., i].flatten()) for i, g in enumerate(guesses)
        ]
        self._update(sum(losses, torch.zeros(())), recipe.vision_rate, self.vision_step, recipe.vision_steps)
        self.vision_step += 1
        shown = labels[..., 0] > 0
        return float((guesses[0].argmax(-1) == labels[..., 0])[shown].float().mean())

    def learn_answers(self, pool: Pool, packer: Packer) -> float:
        """One step of the whole; the loss in nats per answer token."""
        recipe = self.recipe
        loss = answer_loss(self.model, draw_batch(pool, packer, self.step, recipe.seed))
        self._update(loss, recipe.rate, self.step, recipe.steps)
        self.step += 1
        decay = min(recipe.ema, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for name, value in self.model.named_parameters():
                self.average[name].lerp_(value, 1 - decay)
        return float(loss.detach())

    def _update(self, loss: Tensor, rate: float, step: int, steps: int) -> None:
        warm = min(1.0, (step + 1) / self.recipe.warm_up)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / steps)))
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()

    def state(self) -> dict[str, Any]:
        """All that a later run needs; batches are drawn from the step's number, so no generator is kept."""
        return {
            "recipe": self.recipe.__dict__,
            "model": self.model.state_dict(),
            "heads": self.heads.state_dict(),
            "average": self.average,
            "optimizer": self.optimizer.state_dict(),
            "vision_step": self.vision_step,
            "step": self.step,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state of the same recipe."""
        self.model.load_state_dict(state["model"])
        self.heads.load_state_dict(state["heads"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.average, self.vision_step, self.step = state["average"], state["vision_step"], state["step"]

    def write_checkpoint(self) -> None:
        """The averaged weights as a Hugging Face checkpoint, exchanged for the one that was there."""
        averaged = build(self.recipe.seed)
        averaged.load_state_dict(self.average, strict=False)
        fresh = WORK / "checkpoint"
        shutil.rmtree(fresh, ignore_errors=True)
        save(averaged, self.tokenizer, fresh)
        CHECKPOINT.mkdir(exist_ok=True)
        for file in fresh.iterdir():
            file.replace(CHECKPOINT / file.name)


def answer_loss(model: LlavaForConditionalGeneration, batch: Batch) -> Tensor:
    """Cross-entropy of the answers' tokens."""
    packed = batch.packed
    with torch.autocast("cpu", torch.bfloat16):
        features = torch.cat(list(model.model.get_image_features(batch.pixel_values).pooler_output))
        embeds = model.get_input_embeddings()(packed.input_ids)
        where = (packed.input_ids == IMAGE)[..., None]
        embeds = embeds.masked_scatter(where, features.to(embeds.dtype))
        hidden = model.model.language_model(
            inputs_embeds=embeds,
            attention_mask=packed.visible,
            position_ids=packed.position_ids,
            use_cache=False,
        ).last_hidden_state
        learned = packed.labels != IGNORED
        logits = model.lm_head(hidden[learned])
    return F.cross_entropy(logits.float(), packed.labels[learned])


def make_tokenizer(seed: int) -> Tokenizer:
    """Learned from questions and answers about scenes of its own."""
    rng = Random(f"{seed} tokenizer")
    texts = []
    for _ in range(4_000):
        asked = ask_scene(sample_scene(rng), rng) + ask_pair(sample_pair(rng), rng)
        texts += [f"USER: \n{t.question} ASSISTANT: {t.answer}" for turns in asked for t in turns]
    return train_tokenizer(texts)


def train(recipe: Recipe, *, resume: bool) -> None:
    """From nothing, or from the last saved state, to `pebble/checkpoint`."""
    WORK.mkdir(exist_ok=True)
    console = Console()
    trainer = Trainer(recipe, _tokenizer(recipe, resume))
    saved = WORK / "state.pt"
    if resume and saved.exists():
        state = torch.load(saved, weights_only=True)
        if state["recipe"] == recipe.__dict__:
            trainer.restore(state)
            console.print(f"going on from step {trainer.vision_step} + {trainer.step}")
    with _bars(console) as bars:
        total = recipe.scenes + 2 * recipe.pairs
        drawing = bars.add_task("drawing pictures", total=total)
        pool = draw_pool(
            WORK,
            scenes=recipe.scenes,
            pairs=recipe.pairs,
            seed=recipe.seed,
            advance=lambda: bars.advance(drawing),
        )
        bars.update(drawing, completed=total)
        _run(trainer, pool, bars, saved)
    trainer.write_checkpoint()


def _run(trainer: Trainer, pool: Pool, bars: Progress, saved: Path) -> None:
    recipe, packer = trainer.recipe, Packer(trainer.tokenizer)
    seeing = bars.add_task("seeing", total=recipe.vision_steps, completed=trainer.vision_step)
    while trainer.vision_step < recipe.vision_steps:
        right = trainer.learn_patches(pool)
        bars.update(seeing, advance=1)
        if trainer.vision_step % 100 == 0:
            bars.console.print(f"seeing {trainer.vision_step}: {right:.1%} of patches right")
    answering = bars.add_task("answering", total=recipe.steps, completed=trainer.step)
    losses: list[float] = []
    while trainer.step < recipe.steps:
        losses.append(trainer.learn_answers(pool, packer))
        bars.update(answering, advance=1)
        if trainer.step % 100 == 0:
            bars.console.print(f"answering {trainer.step}: loss {sum(losses) / len(losses):.4f}")
            losses.clear()
        if trainer.step % recipe.save_every == 0:
            partial = saved.with_suffix(".partial")
            torch.save(trainer.state(), partial)
            partial.replace(saved)
            trainer.write_checkpoint()


def _tokenizer(recipe: Recipe, resume: bool) -> Tokenizer:
    path = WORK / f"tokenizer-{recipe.seed}.json"
    if not (resume and path.exists()):
        make_tokenizer(recipe.seed).save(str(path))
    return Tokenizer.from_file(str(path))


def _bars(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--restart", action="store_true", help="begin anew even where a saved state exists")
    train(Recipe(), resume=not parser.parse_args().restart)
