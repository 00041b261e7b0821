"""Files as such: cut short, damaged, missing, exchanged, of another family, of another kind of folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from tests.export.mutations.mutation import Apply, read, write


def some(folder: Path, random: Random) -> Path:
    """Some file of the checkpoint."""
    return random.choice(sorted(path for path in folder.iterdir() if path.is_file()))


def cut(folder: Path, random: Random) -> None:
    """Some file ends early."""
    file = some(folder, random)
    raw = file.read_bytes()
    file.write_bytes(raw[: random.randrange(len(raw))])


def flipped(folder: Path, random: Random) -> None:
    """One byte of some file other than the weights is another."""
    file = some(folder, random)
    while file.suffix == ".safetensors":
        file = some(folder, random)
    raw = bytearray(file.read_bytes())
    raw[random.randrange(len(raw))] ^= random.randrange(1, 256)
    file.write_bytes(raw)


def missing(folder: Path, random: Random) -> None:
    """Some file is not there."""
    some(folder, random).unlink()


def swapped(folder: Path, random: Random) -> None:
    """Two files have each other's contents."""
    first, second = random.sample(sorted(path for path in folder.iterdir() if path.is_file()), 2)
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)


def content(name: str, data: bytes) -> Apply:
    """A file with these contents, in place of what is there."""
    return lambda folder, _: (folder / name).write_bytes(data) and None


def gone(*names: str) -> Apply:
    """Files of these names are not there."""

    def apply(folder: Path, _random: Random) -> None:
        for name in names:
            (folder / name).unlink(missing_ok=True)

    return apply


def folder_instead(name: str) -> Apply:
    """A folder where a file should be."""

    def apply(folder: Path, _random: Random) -> None:
        (folder / name).unlink()
        (folder / name).mkdir()

    return apply


def link_to_nowhere(name: str) -> Apply:
    """A link whose end is missing, as of a hub cache that was cleared."""

    def apply(folder: Path, _random: Random) -> None:
        (folder / name).unlink()
        (folder / name).symlink_to("../blobs/0123456789")

    return apply


def closed(name: str) -> Apply:
    """A file that cannot be read: a link to itself, for root reads everything else."""

    def apply(folder: Path, _random: Random) -> None:
        (folder / name).unlink()
        (folder / name).symlink_to(name)

    return apply


def tokenizer(change: Callable[[dict[str, Any], Random], Any]) -> Apply:
    """Change `tokenizer.json` in place."""

    def apply(folder: Path, random: Random) -> None:
        parsed = read(folder / "tokenizer.json")
        change(parsed, random)
        write(folder / "tokenizer.json", parsed)

    return apply


def templates(text: str) -> Apply:
    """The chat template, in every place where one is."""

    def apply(folder: Path, _random: Random) -> None:
        for file in folder.glob("*.json"):
            parsed = json.loads(file.read_text())
            if "chat_template" in parsed:
                write(file, parsed | {"chat_template": text})
        if (folder / "chat_template.jinja").exists():
            (folder / "chat_template.jinja").write_text(text)

    return apply
