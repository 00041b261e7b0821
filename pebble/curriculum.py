"""What is trained on when: batches drawn by the step's own generator, so that training can resume anywhere."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pebble.followups import CONVERSATIONS
from pebble.packing import Packed, Packer
from pebble.pairs import PAIR_ASKS, Pair
from pebble.pool import Pool, normalise, patch_labels
from pebble.questions import ASKS
from pebble.records import Turn
from pebble.scenes import Scene

SCENES_PER_STEP, PAIRS_PER_STEP = 12, 8
QUESTIONS_PER_SCENE, FOLLOW_UPS_PER_SCENE, QUESTIONS_PER_PAIR = 6, 2, 4
WEIGHTS = {"count": 1.2, "exists": 1.4, "side": 1.4, "compare": 1.4}
RARELY = {"shown": 0.4, "describe": 0.5, "size": 0.6}
WEIGHTS_LATE = RARELY | {"where": 3.0, "side": 2.5, "compare": 2.5, "count": 0.6}
WEIGHTS_LAST = RARELY | {"where": 3.5, "side": 4.0, "compare": 4.0, "count": 1.5, "colour": 0.5, "shape": 0.5}
"""How often a kind is asked; 1 for those not named."""
STAGES = ((6_000, 4, WEIGHTS_LAST), (3_000, 3, WEIGHTS_LATE), (0, 4, WEIGHTS))
"""(first step, one step in this many is on pairs, weights): what is harder is asked more once the rest is known."""


@dataclass(frozen=True, kw_only=True)
class Seen:
    """The tower's features of a pool's pictures, float16 [pictures, tokens, D]."""

    scenes: NDArray[np.float16]
    pairs: NDArray[np.float16]


@dataclass(frozen=True, kw_only=True)
class Batch:
    """`features` float32 [N, tokens, D] in the order in which the packed rows use their pictures."""

    features: Tensor
    packed: Packed


def draw_batch(pool: Pool, seen: Seen, packer: Packer, step: int, seed: int) -> Batch:
    """The batch of a training step."""
    rng = Random(f"{seed} step {step}")
    every, weights = next((every, weights) for first, every, weights in STAGES if step >= first)
    if step % every == every - 1:
        chosen = rng.sample(range(len(pool.pairs)), PAIRS_PER_STEP)
        samples = [(2, ask_pair(pool.pairs[i], rng)) for i in chosen]
        features = seen.pairs[[2 * i + k for i in chosen for k in (0, 1)]]
    else:
        chosen = rng.sample(range(len(pool.scenes)), SCENES_PER_STEP)
        samples = [(1, ask_scene(pool.scenes[i], rng, weights)) for i in chosen]
        features = seen.scenes[chosen]
    return Batch(features=torch.from_numpy(features.astype(np.float32)), packed=packer.pack(samples))


def ask_scene(scene: Scene, rng: Random, weights: dict[str, float] | None = None) -> list[tuple[Turn, ...]]:
    """Conversations about one picture, of one and of two turns."""
    kinds = list(ASKS)
    shares = [(weights or WEIGHTS).get(kind, 1.0) for kind in kinds]
    asked: list[tuple[Turn, ...]] = []
    while len(asked) < QUESTIONS_PER_SCENE:
        turn = ASKS[rng.choices(kinds, shares)[0]](scene, rng)
        if turn is not None:
            asked.append((turn,))
    while len(asked) < QUESTIONS_PER_SCENE + FOLLOW_UPS_PER_SCENE:
        turns = CONVERSATIONS[rng.choice(list(CONVERSATIONS))](scene, rng)
        if turns is not None:
            asked.append(turns)
    return asked


def ask_pair(pair: Pair, rng: Random) -> list[tuple[Turn, ...]]:
    """Questions about two pictures; the difference is always among them."""
    asked: list[tuple[Turn, ...]] = []
    kinds = list(PAIR_ASKS)
    while len(asked) < QUESTIONS_PER_PAIR:
        turn = PAIR_ASKS["two pictures: difference" if not asked else rng.choice(kinds)](pair, rng)
        if turn is not None:
            asked.append((turn,))
    return asked


def draw_patches(pool: Pool, step: int, seed: int, count: int) -> tuple[Tensor, Tensor]:
    """Pictures and what their patches show, for the vision tower: [N, 3, H, W] and int64 [N, patches, 4]."""
    rng = Random(f"{seed} patches {step}")
    chosen = rng.sample(range(len(pool.scenes)), count)
    labels = np.stack([patch_labels(pool.scenes[i]) for i in chosen])
    return torch.from_numpy(normalise(pool.scene_pixels[chosen])), torch.from_numpy(labels)
