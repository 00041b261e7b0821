"""Where the time of a graph's runs went: by operator, and by layer.

Enters: what ONNX Runtime's profiler wrote of a session, the phase of each of its runs, and the bytes of weights that
each node reads. Leaves: a `GraphProfile` for each phase.

A profile is a list of events: a `model_run` for each run, and within its time one for each node. Nodes bear the names
that they have in the graph (`/layers.3/mlp/down_proj/MatMulNBits`), so that they tell which layer they are of.

A node's time is the median of its runs over the same shapes, times their number: what the machine did besides is not
the node's.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, TypeAlias

from pumice.errors import GenerationError

Event: TypeAlias = "Mapping[str, Any]"

_KERNEL = "_kernel_time"
_LAYER = re.compile(r"/(?:(\w+)/)?layers\.(\d+)/(?:(\w+)/)?")
_PRODUCTS = re.compile(r"MatMul|Gemm$")


@dataclass(frozen=True, kw_only=True)
class NodeTime:
    """All runs of one node in one phase.

    `weight_bytes` are read, and `flops` done, in all of them together; None where it is not known.
    """

    name: str
    operator: str
    runs: int
    seconds: float
    weight_bytes: int | None
    flops: int | None

    @property
    def place(self) -> tuple[str, str]:
        """The layer and the part of it, as `("tower/layers.16", "mlp")`; outside of layers the part alone."""
        if layer := _LAYER.match(self.name):
            path = f"{layer[1]}/layers" if layer[1] else "layers"
            return f"{path}.{layer[2]}", layer[3] or ""
        parts = self.name.strip("/").split("/")
        return "", parts[0] if len(parts) > 1 else ""


@dataclass(frozen=True, kw_only=True)
class GraphProfile:
    """A graph in one phase: the time of `runs` runs is that of their nodes, and what passed between those."""

    graph: str
    phase: str
    runs: int
    between_s: float
    nodes: tuple[NodeTime, ...]

    @property
    def seconds(self) -> float:
        """Of all runs."""
        return self.between_s + sum(node.seconds for node in self.nodes)


def graph_profiles(
    graph: str, events: Iterable[Event], phases: Sequence[str], weights: Mapping[str, int]
) -> list[GraphProfile]:
    """Profiles of one session, whose runs were in `phases`, one after another.

    Raises:
        GenerationError: there are not as many runs in the profile.
    """
    ordered = sorted(events, key=lambda event: event["ts"])
    runs = [event for event in ordered if event["name"] == "model_run"]
    if len(runs) != len(phases):
        raise GenerationError(
            f"ONNX Runtime's profile of {graph} has {len(runs)} runs of {len(phases)}: profile fewer tokens"
        )
    inside: list[list[Event]] = [[] for _ in runs]
    starts = [run["ts"] for run in runs]
    for event in ordered:
        number = bisect_right(starts, event["ts"]) - 1
        if event["cat"] == "Node" and event["name"].endswith(_KERNEL) and number >= 0 and not _chooses(event):
            inside[number].append(event)
    profiles = []
    for phase in dict.fromkeys(phases):
        numbers = [number for number, of in enumerate(phases) if of == phase]
        between = median(runs[n]["dur"] - sum(event["dur"] for event in inside[n]) for n in numbers)
        profiles.append(
            GraphProfile(
                graph=graph,
                phase=phase,
                runs=len(numbers),
                between_s=between * len(numbers) / 1e6,
                nodes=_nodes([event for n in numbers for event in inside[n]], weights),
            )
        )
    return profiles


def _chooses(event: Event) -> bool:
    """Whether a node's time is that of nodes within it, which have events of their own."""
    return bool(event["args"].get("op_name") == "If")


def _nodes(events: Iterable[Event], weights: Mapping[str, int]) -> tuple[NodeTime, ...]:
    grouped: defaultdict[str, list[Event]] = defaultdict(list)
    for event in events:
        grouped[event["name"].removesuffix(_KERNEL)].append(event)
    return tuple(_node(name, found, weights) for name, found in grouped.items())


def _node(name: str, events: Sequence[Event], weights: Mapping[str, int]) -> NodeTime:
    size = _weight(name, weights)
    flops = [_flops(event["args"]) for event in events]
    alike: defaultdict[str, list[float]] = defaultdict(list)
    for event in events:
        alike[repr(_shapes(event["args"], "input"))].append(event["dur"])
    return NodeTime(
        name=name,
        operator=events[0]["args"].get("op_name", ""),
        runs=len(events),
        seconds=sum(median(run) * len(run) for run in alike.values()) / 1e6,
        weight_bytes=None if size is None else size * len(events),
        flops=None if None in flops else sum(number for number in flops if number is not None),
    )


def _weight(name: str, weights: Mapping[str, int]) -> int | None:
    """By the node's name; one that ONNX Runtime made of others bears theirs, and an ending."""
    while name and name not in weights:
        name = name.rpartition("_output_")[0] or name.rpartition("/")[0]
    return weights.get(name)


def _flops(args: Mapping[str, Any]) -> int | None:
    """Multiplications and additions of a product, by its shapes; None for what is none, or does not tell."""
    operator, inputs, outputs = args.get("op_name", ""), _shapes(args, "input"), _shapes(args, "output")
    if not inputs or not outputs:
        return None
    if _PRODUCTS.search(operator):
        return 2 * math.prod(outputs[0]) * inputs[0][-1] if inputs[0] else None
    if operator.endswith("Conv") and len(inputs) > 1:
        return 2 * math.prod(outputs[0]) * math.prod(inputs[1][1:])
    if operator == "MultiHeadAttention" and [len(shape) for shape in inputs[:2]] == [3, 3]:
        return (
            4 * math.prod(inputs[0]) * inputs[1][1]
        )  # [B, T, D] and [B, S, D]: scores, and their sum of values
    return None


def _shapes(args: Mapping[str, Any], side: str) -> list[list[int]]:
    """`[{"float": [1, 37, 128]}, …]`."""
    return [shape for typed in args.get(f"{side}_type_shape", []) for shape in typed.values()]
