"""docs/equality.md's tables.

Enters: measurements. Leaves: Markdown between the page's marks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import onnxruntime

from bench.equality.difference import Difference
from bench.equality.instructions import instruction_sets
from bench.equality.ways import TOKENS, WAYS
from bench.machine import this_machine
from bench.marks import replace_part
from pumice.manifest import Manifest

PAGE = Path(__file__).parents[2] / "docs" / "equality.md"


@dataclass(frozen=True, kw_only=True)
class Column:
    """A bundle, and what was found of it by way."""

    bundle: str
    manifest: Manifest
    found: dict[str, Difference]

    @property
    def title(self) -> str:
        """The recipe that it was exported by, else its folder."""
        return self.manifest.precision.recipe or self.bundle


def measured(columns: Sequence[Column], machine: str) -> str:
    """A table for each checkpoint: a line a way, a column a bundle."""
    checkpoints = dict.fromkeys(column.manifest.source.checkpoint for column in columns)
    parts = [machine]
    for checkpoint in checkpoints:
        mine = [column for column in columns if column.manifest.source.checkpoint == checkpoint]
        answers = max(difference.answers for difference in mine[0].found.values())
        shape = mine[0].manifest.decoder
        parts.append(
            f"`{checkpoint}` ({shape.layers} layers, {shape.hidden_size} wide), answers of up to {TOKENS} tokens to "
            f"{answers} prompts, for some ways to a third or half of them:"
        )
        lines = [f"| | {' | '.join(f'`{column.title}`' for column in mine)} |", "|---|" + "---|" * len(mine)]
        lines += [f"| {way} | {' | '.join(str(column.found[way]) for column in mine)} |" for way in WAYS]
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def beside(found: Sequence[tuple[str, Difference]], machine: str) -> str:
    """The table of instruction sets."""
    lines = [machine, "", "| bundle | beside the other processor |", "|---|---|"]
    return "\n".join([*lines, *(f"| `{bundle}` | {difference} |" for bundle, difference in found)])


def machine(threads: int, emulated: bool = False) -> str:
    """What it was measured on."""
    cpu = "An emulated processor" if emulated else this_machine().cpu
    many = "thread" if threads == 1 else "threads"
    return f"{cpu} with {instruction_sets()}, ONNX Runtime {onnxruntime.__version__}, {threads} {many}."


def write(part: str, text: str) -> None:
    """Put a table between its marks."""
    replace_part(PAGE, part, text)
