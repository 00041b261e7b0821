"""Weight files: headers that lie, tensors renamed, missing, doubled, in other shapes and dtypes, NaN among values."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from tests.export.mutations.mutation import INDEX, WEIGHTS, Apply, header_of, read, with_header, write

Tensors = dict[str, torch.Tensor]


def tensors(change: Callable[[Tensors, str, Random], Any]) -> Apply:
    """Change the loaded tensors in place; `change` is also given some tensor's name."""

    def apply(folder: Path, random: Random) -> None:
        loaded = load_file(folder / WEIGHTS)
        change(loaded, random.choice(sorted(loaded)), random)
        save_file({name: value.contiguous() for name, value in loaded.items()}, folder / WEIGHTS)

    return apply


def renamed(to: Callable[[str], str]) -> Apply:
    """Some tensor gets another name."""
    return tensors(lambda loaded, name, _: loaded.update({to(name): loaded.pop(name)}))


def doubled(to: Callable[[str], str]) -> Apply:
    """Some tensor is there a second time, under another name."""
    return tensors(lambda loaded, name, _: loaded.update({to(name): loaded[name].clone()}))


def reshaped(to: Callable[[torch.Tensor], torch.Tensor]) -> Apply:
    """Some tensor in another shape, or of another dtype."""
    return tensors(lambda loaded, name, _: loaded.update({name: to(loaded[name])}))


def all_in(dtype: torch.dtype) -> Apply:
    """Every tensor in a dtype."""
    return tensors(lambda loaded, _name, _: loaded.update({n: t.to(dtype) for n, t in loaded.items()}))


def exchanged(loaded: Tensors, name: str, random: Random) -> None:
    """Two tensors change places, of one shape or not."""
    other = random.choice(sorted(set(loaded) - {name}))
    loaded[name], loaded[other] = loaded[other], loaded[name]


def poked(value: float, part: str = "") -> Apply:
    """One value of a tensor whose name ends in `part` becomes another."""

    def change(loaded: Tensors, _name: str, random: Random) -> None:
        name = random.choice(sorted(n for n in loaded if n.endswith(part)))
        wide = loaded[name].double() if abs(value) > 1e38 and not math.isinf(value) else loaded[name]
        wide.view(-1)[random.randrange(wide.numel())] = value
        loaded[name] = wide

    return tensors(change)


def header(change: Callable[[dict[str, Any], str, Random], Any]) -> Apply:
    """Change the header in place, not the data."""

    def apply(folder: Path, random: Random) -> None:
        head, data = header_of(folder / WEIGHTS)
        change(head, random.choice(sorted(set(head) - {"__metadata__"})), random)
        with_header(folder / WEIGHTS, head, data)

    return apply


def entry(**fields: Any) -> Apply:
    """Some tensor's entry in the header says something else."""
    return header(lambda head, name, _: head[name].update(fields))


def flipped_in_header(folder: Path, random: Random) -> None:
    """One bit of the header."""
    raw = bytearray((folder / WEIGHTS).read_bytes())
    raw[random.randrange(8 + int.from_bytes(raw[:8], "little"))] ^= 1 << random.randrange(8)
    (folder / WEIGHTS).write_bytes(raw)


def shards(folder: Path) -> list[Path]:
    """A sharded checkpoint's files, in order."""
    return sorted(folder.glob("model-*.safetensors"))


def swapped_shards(folder: Path, random: Random) -> None:
    """Two shards change names."""
    first, second = random.sample(shards(folder), 2)
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)


def copied_shard(folder: Path, random: Random) -> None:
    """A shard in the place of another."""
    first, second = random.sample(shards(folder), 2)
    first.write_bytes(second.read_bytes())


def index(change: Callable[[dict[str, Any], str, Random], Any]) -> Apply:
    """Change the index in place; `change` is also given some tensor's name."""

    def apply(folder: Path, random: Random) -> None:
        content = read(folder / INDEX)
        change(content, random.choice(sorted(content["weight_map"])), random)
        write(folder / INDEX, content)

    return apply


def in_index(shard: Any) -> Apply:
    """The index has something else for some tensor."""
    return index(lambda content, name, _: content["weight_map"].update({name: shard}))


def on_shard(apply: Apply) -> Apply:
    """Do to some shard what would be done to the only weight file."""

    def to_shard(folder: Path, random: Random) -> None:
        shard = random.choice(shards(folder))
        shard.rename(folder / WEIGHTS)
        apply(folder, random)
        (folder / WEIGHTS).rename(shard)

    return to_shard


def joined_beside_shards(folder: Path, _random: Random) -> None:
    """The whole in one file, beside the shards."""
    whole: Tensors = {}
    for shard in shards(folder):
        whole |= load_file(shard)
    save_file(whole, folder / WEIGHTS)


def stale_shard(folder: Path, _random: Random) -> None:
    """A shard of an older release that the index does not name."""
    save_file(
        {"language_model.model.norm.weight": torch.zeros(3)}, folder / "model-00001-of-00099.safetensors"
    )


def doubled_key(folder: Path, _random: Random) -> None:
    """The header has a tensor's name twice, with different places."""
    head, data = header_of(folder / WEIGHTS)
    name = next(n for n in head if n.endswith("norm.weight"))
    text = json.dumps(head)
    text = text[:-1] + f', "{name}": ' + json.dumps(head[name]) + "}"
    raw = text.encode()
    (folder / WEIGHTS).write_bytes(len(raw).to_bytes(8, "little") + raw + data)
