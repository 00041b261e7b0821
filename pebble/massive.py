"""pebble with massive channels, as large language models have them: `make_massive` writes such a copy of a checkpoint.

A few channels of a large model's residual stream carry most of its energy, and the norms before the MLPs have learnt
small weights for them. Of SmolLM2-135M's 576 channels eight carry 0.56 to 0.70 from the second layer on. The largest
have 0.3 to 0.7 of the median weight, or none, before most MLPs; before attention and head it is about the median.
Outliers that a norm makes (`pebble.outliers`) are another thing: these are in the stream, and a norm takes them away.

Here the stream x becomes x·M, with an invertible M that gathers most of the energy in `CHANNELS` channels. What writes
the stream is multiplied by M, what reads it by M's inverse, and where an MLP follows, the norm's weights take over what
makes those channels' columns small. That is the same function but for one thing: an RMSNorm divides by the size of all
channels, which M changes by a factor that differs a little from token to token. So an M is sought for which it differs
little (`find_matrix`), and the norms' weights take up its mean. The copy nearly always answers as pebble does; it is
a model of its own, to be compared with itself in float32.
"""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from random import Random

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor

from pebble.curriculum import ask_pair, ask_scene
from pebble.packing import Packer
from pebble.pairs import sample_pair
from pebble.pool import normalise, shrink
from pebble.records import Turn
from pebble.scenes import Scene, render, sample_scene
from pebble.tokenizer import IMAGE

CHANNELS = 8
SCALE = 4.0
"""How many times these grow at first; in the end they are 3 to 3.8 times as large."""
SHARE = 0.6
"""Of the stream's energy, that they carry before each norm at least, in the mean over tokens."""
SCENES, PAIRS, SIDE = 120, 40, 160
"""Drawn to see the stream, `SIDE` pixels wide and high; one conversation about each is read."""
STEPS, TOKENS, RATE = 2_000, 64, 1e-2
"""Of the search for M: steps, tokens of images and of texts at each, and the first step's rate."""
SHORTFALL, SKEW = 10.0, 0.01
"""What a share below `SHARE` costs, squared, and what a basis that is not orthonormal does (`find_matrix`)."""

_LAYER = r"(.*language_model\.model\.layers\.\d+\.)"
_READERS = {
    _LAYER + r"input_layernorm\.weight$": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    _LAYER + r"post_attention_layernorm\.weight$": ("mlp.gate_proj", "mlp.up_proj"),
    r"(.*language_model\.)model\.norm\.weight$": ("lm_head",),
}
"""Norms of the stream, and the matrices that read them, beside."""
_MUTED = "post_attention_layernorm"
_TABLE = re.compile(r".*language_model\.model\.embed_tokens\.weight$")
_WRITES = re.compile(
    _LAYER + r"(self_attn\.o_proj|mlp\.down_proj)\.weight$|.*multi_modal_projector\.linear_2\."
)


@dataclass(frozen=True, kw_only=True)
class Change:
    """How the stream x [width] changes: into x·`matrix`.

    matrix     float32 [width, width], invertible
    channels   int64 [CHANNELS]: the massive ones of what comes out
    growth     of each norm, by its weight's name: the mean factor by which the stream's size grows there
    """

    matrix: Tensor
    channels: Tensor
    growth: dict[str, float]


def make_massive(checkpoint: Path, folder: Path, *, seed: int = 0) -> Path:
    """Copy `checkpoint` (pebble's, or trained as pebble was) to `folder` (new), in float32, with massive channels.

    The embedding table and the head must not be tied: they need different matrices.
    """
    shutil.copytree(checkpoint, folder)
    (weights,) = folder.glob("*.safetensors")
    tensors = {name: tensor.float() for name, tensor in load_file(weights).items()}
    streams, of_image = watch(checkpoint, norms_of(tensors), seed=seed)
    width = next(iter(streams.values())).shape[1]
    channels = torch.randperm(width, generator=torch.Generator().manual_seed(seed))[:CHANNELS]
    matrix = find_matrix(streams, of_image, channels, seed=seed)
    growth = {name: float((unit @ matrix).norm(dim=1).log().mean().exp()) for name, unit in streams.items()}
    apply(tensors, Change(matrix=matrix, channels=channels, growth=growth))
    save_file(tensors, weights, metadata={"format": "pt"})
    return folder


def norms_of(tensors: dict[str, Tensor]) -> list[str]:
    """Names of the weights of the norms that read the stream."""
    return [name for name in tensors if any(re.match(pattern, name) for pattern in _READERS)]


def apply(tensors: dict[str, Tensor], change: Change) -> None:
    """Change a checkpoint's float32 tensors in place; the same function where `matrix` is orthonormal and `growth` 1.

    A norm keeps its weights but for the massive channels: before an MLP theirs are such that their columns of the
    matrices behind it are as large as the median column, elsewhere they are the median.
    """
    back = torch.linalg.inv(change.matrix).T
    for name in tensors:
        if _TABLE.match(name):
            tensors[name] = tensors[name] @ change.matrix
        elif _WRITES.match(name):
            tensors[name] = change.matrix.T @ tensors[name]
    for norm in norms_of(tensors):
        old, readers = tensors[norm], _readers(norm)
        for reader in readers:
            tensors[reader] = (tensors[reader] * old) @ back
        new = old.index_fill(0, change.channels, float(old.median()))
        if _MUTED in norm:
            sizes = torch.cat([tensors[reader] for reader in readers]).norm(dim=0) / new
            new[change.channels] *= sizes[change.channels] / sizes.median()
        for reader in readers:
            tensors[reader] /= new
        tensors[norm] = new * change.growth[norm]


def _readers(norm: str) -> list[str]:
    ((match, names),) = [
        (match, names) for pattern, names in _READERS.items() if (match := re.match(pattern, norm))
    ]
    return [f"{match[1]}{name}.weight" for name in names]


def watch(checkpoint: Path, norms: list[str], *, seed: int = 0) -> tuple[dict[str, Tensor], Tensor]:
    """The stream before each norm, float32 [tokens, width] of length 1 a token; and bool [tokens]: is it an image's.

    The tokens are of conversations about scenes and pairs as training draws them (none held out), in transformers'
    model in float32.
    """
    from transformers import LlavaForConditionalGeneration

    model = LlavaForConditionalGeneration.from_pretrained(checkpoint, dtype=torch.float32).eval()
    packer = Packer(Tokenizer.from_file(str(checkpoint / "tokenizer.json")))
    seen: dict[str, list[Tensor]] = {name: [] for name in norms}
    for name, rows in seen.items():
        inner = name.removesuffix(".weight").partition("language_model.model.")[2]
        norm = model.model.language_model.get_submodule(inner)
        norm.register_forward_pre_hook(lambda _, given, rows=rows: rows.append(given[0][0]))
    of_image = []
    with torch.inference_mode():
        for scenes, turns in _conversations(Random(f"{seed} massive")):
            ids = torch.tensor([packer.prefix(len(scenes)) + packer.conversation(turns)[0]])
            pixels = torch.stack([_pixels(scene) for scene in scenes])
            model(input_ids=ids, pixel_values=pixels)
            of_image.append(ids[0] == IMAGE)
    streams = {name: torch.nn.functional.normalize(torch.cat(rows), dim=-1) for name, rows in seen.items()}
    return streams, torch.cat(of_image)


def _conversations(rng: Random) -> list[tuple[tuple[Scene, ...], tuple[Turn, ...]]]:
    found: list[tuple[tuple[Scene, ...], tuple[Turn, ...]]] = []
    for _ in range(SCENES):
        scene = sample_scene(rng)
        found.append(((scene,), rng.choice(ask_scene(scene, rng))))
    for _ in range(PAIRS):
        pair = sample_pair(rng)
        found.append(((pair.first, pair.second), rng.choice(ask_pair(pair, rng))))
    return found


def _pixels(scene: Scene) -> Tensor:
    return torch.from_numpy(normalise(shrink(render(scene, SIDE))[None])[0])


def find_matrix(streams: dict[str, Tensor], of_image: Tensor, channels: Tensor, *, seed: int = 0) -> Tensor:
    """A matrix M [width, width] for which the size of x·M is about the same multiple of x's for every token.

    M is a basis B whose columns `channels` are multiplied by `SCALE`. Adam descends the variance of log |x·M| over
    tokens, of images and of texts alike, plus `SHORTFALL` times (`SHARE` − share)² where `channels` carry too little,
    plus `SKEW` times the mean over columns of |BᵀB − 1|². B begins with the stream's first principal axes.
    """
    units = torch.stack(list(streams.values()))
    factors = torch.ones(units.shape[-1]).index_fill(0, channels, SCALE)
    axes = torch.linalg.eigh(torch.einsum("ntd,nte->de", units, units))[1][:, -CHANNELS:]
    basis = _completed(axes, channels).requires_grad_()
    kinds = of_image.nonzero()[:, 0], (~of_image).nonzero()[:, 0]
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam([basis], lr=RATE)
    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = RATE * (1 - step / STEPS)
        drawn = [kind[torch.randint(len(kind), (TOKENS,), generator=generator)] for kind in kinds]
        energy = (units[:, torch.cat(drawn)] @ (basis * factors)).square()
        whole = energy.sum(-1)
        share = (energy[..., channels].sum(-1) / whole).mean(1)
        skew = (basis.T @ basis - torch.eye(len(basis))).square().sum(0).mean()
        loss = (
            (whole.log() / 2).var(1).mean() + SHORTFALL * (SHARE - share).relu().square().mean() + SKEW * skew
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return (basis * factors).detach()


def _completed(axes: Tensor, channels: Tensor) -> Tensor:
    """An orthonormal matrix with `axes` as its columns `channels`; the others stay near the channels that they were."""
    width = len(axes)
    others = torch.tensor(sorted(set(range(width)) - set(channels.tolist())))
    columns, upper = torch.linalg.qr(torch.cat([axes, torch.eye(width)[:, others]], 1))
    basis = torch.empty(width, width)
    basis[:, torch.cat([channels, others])] = columns * upper.diagonal().sign()
    return basis
