"""Trains pebble from nothing: `python -m pebble.train`. Seeded, resumable, about an hour on two cores.

1. Pictures are drawn (`pebble.pool`).
2. The vision tower learns to see: what stands in the grid cell of each patch, through linear heads then thrown away.
3. The tower is frozen, and looks at every picture once.
4. Projector and text model learn to answer packed questions (`pebble.packing`, `pebble.curriculum`).

State goes to `pebble/.work`; a run that was interrupted goes on where the last state was saved.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from dataclasses import asdict
from pathlib import Path
from random import Random

import numpy as np
import torch
from numpy.typing import NDArray
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

from pebble.architecture import save
from pebble.curriculum import Seen, ask_pair, ask_scene, draw_batch
from pebble.packing import Packer
from pebble.pairs import sample_pair
from pebble.pool import Pool, draw_pool
from pebble.scenes import sample_scene
from pebble.tokenizer import train_tokenizer
from pebble.trainer import Recipe, Trainer

HERE = Path(__file__).parent
WORK = HERE / ".work"
STATE = WORK / "state.pt"
CHECKPOINT = HERE / "checkpoint"
SAVE_EVERY, SAY_EVERY, LOOK_AT = 500, 100, 256


def train(recipe: Recipe, *, resume: bool) -> None:
    """From nothing, or from the last saved state, to `pebble/checkpoint`."""
    WORK.mkdir(exist_ok=True)
    if not resume:
        shutil.rmtree(WORK)
        WORK.mkdir()
    tokenizer, trainer = _tokenizer(recipe), Trainer(recipe)
    if STATE.exists():
        state = torch.load(STATE, weights_only=True)
        if state["recipe"] != asdict(recipe):
            sys.exit(f"{STATE} is of another recipe: delete it, or use --restart")
        trainer.restore(state)
    with _bars() as bars:
        pool = _draw(recipe, bars)
        _learn_to_see(trainer, pool, bars)
        seen = _look(trainer, pool, bars)
        _learn_to_answer(trainer, pool, seen, tokenizer, bars)
    write_checkpoint(trainer, tokenizer)


def _draw(recipe: Recipe, bars: Progress) -> Pool:
    total = recipe.scenes + 2 * recipe.pairs
    task = bars.add_task("drawing", total=total)
    pool = draw_pool(
        WORK, scenes=recipe.scenes, pairs=recipe.pairs, seed=recipe.seed, advance=lambda: bars.advance(task)
    )
    bars.update(task, completed=total)
    return pool


def _learn_to_see(trainer: Trainer, pool: Pool, bars: Progress) -> None:
    steps = trainer.recipe.seeing_steps
    task = bars.add_task("seeing", total=steps, completed=trainer.seeing_step)
    shares: list[float] = []
    while trainer.seeing_step < steps:
        shares.append(trainer.learn_to_see(pool))
        bars.advance(task)
        _say(bars, shares, trainer.seeing_step, "seeing {}: {:.2%} of shapes' patches right")
        if trainer.seeing_step % SAVE_EVERY == 0:
            _save_state(trainer)


def _look(trainer: Trainer, pool: Pool, bars: Progress) -> Seen:
    def looked(name: str, pixels: NDArray[np.uint8]) -> NDArray[np.float16]:
        path = WORK / f"{name}-seen.npy"
        if trainer.answering_step == 0 or not path.exists():
            task = bars.add_task(f"looking at {name}", total=len(pixels))
            parts = []
            for start in range(0, len(pixels), LOOK_AT):
                parts.append(trainer.look(pixels[start : start + LOOK_AT]))
                bars.advance(task, len(parts[-1]))
            np.save(path, np.concatenate(parts))
        features: NDArray[np.float16] = np.load(path)
        return features

    seen = Seen(scenes=looked("scenes", pool.scene_pixels), pairs=looked("pairs", pool.pair_pixels))
    if trainer.answering_step == 0:
        trainer.scale_projector(torch.from_numpy(seen.scenes[:LOOK_AT]).float())
    return seen


def _learn_to_answer(trainer: Trainer, pool: Pool, seen: Seen, tokenizer: Tokenizer, bars: Progress) -> None:
    recipe, packer = trainer.recipe, Packer(tokenizer)
    total = recipe.answering_steps + recipe.polishing_steps
    task = bars.add_task("answering", total=total, completed=trainer.answering_step)
    losses: list[float] = []
    while trainer.answering_step < total:
        batch = draw_batch(pool, seen, packer, trainer.answering_step, recipe.seed)
        losses.append(trainer.learn_to_answer(batch))
        bars.advance(task)
        _say(bars, losses, trainer.answering_step, "answering {}: loss {:.4f}")
        if trainer.answering_step % SAVE_EVERY == 0:
            _save_state(trainer)
            write_checkpoint(trainer, tokenizer)


def write_checkpoint(trainer: Trainer, tokenizer: Tokenizer) -> None:
    """The averaged weights as a Hugging Face checkpoint, exchanged for the one that was there."""
    fresh = WORK / "checkpoint"
    shutil.rmtree(fresh, ignore_errors=True)
    save(trainer.averaged(), tokenizer, fresh)
    CHECKPOINT.mkdir(exist_ok=True)
    for file in fresh.iterdir():
        file.replace(CHECKPOINT / file.name)


def _save_state(trainer: Trainer) -> None:
    partial = STATE.with_suffix(".partial")
    torch.save(trainer.state(), partial)
    partial.replace(STATE)


def _say(bars: Progress, values: list[float], step: int, text: str) -> None:
    if step % SAY_EVERY == 0:
        bars.console.print(text.format(step, sum(values) / len(values)))
        values.clear()


def _tokenizer(recipe: Recipe) -> Tokenizer:
    """Learned from questions and answers about scenes of its own."""
    path = WORK / "tokenizer.json"
    if not path.exists():
        rng = Random(f"{recipe.seed} tokenizer")
        texts = []
        for _ in range(4_000):
            asked = ask_scene(sample_scene(rng), rng) + ask_pair(sample_pair(rng), rng)
            texts += [
                f"USER: \n{turn.question} ASSISTANT: {turn.answer}" for turns in asked for turn in turns
            ]
        train_tokenizer(texts).save(str(path))
    return Tokenizer.from_file(str(path))


def _bars() -> Progress:
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    return Progress(TextColumn("{task.description}"), *columns, console=Console())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Train pebble.")
    parser.add_argument("--restart", action="store_true", help="begin anew even where a saved state exists")
    train(Recipe(), resume=not parser.parse_args().restart)
