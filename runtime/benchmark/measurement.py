"""The speed of a bundle's parts, and its memory, each measured several times.

Enters: a bundle, an image, a workload. Leaves: `Figure`s. The rounds go over all parts, so that whatever else the
machine does hits all of them alike; the first round warms up and is not counted.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from PIL import Image

from pumice.benchmark.process_memory import process_memory
from pumice.benchmark.workload import QUESTION, Parts, Workload
from pumice.images.files import ImageInput, open_image
from pumice.loading import load
from pumice.model import Model

Unit = Literal["s", "tokens/s", "MB"]
Step = Callable[[int], float]


@dataclass(frozen=True, kw_only=True)
class Figure:
    """What was measured in every round, in `unit`."""

    name: str
    unit: Unit
    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle of the values."""
        return statistics.median(self.values)


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """All figures of a bundle, in the order of an answer, and what they were computed with."""

    device: str
    threads: int
    figures: tuple[Figure, ...]


def measure(
    bundle: str | os.PathLike[str],
    image: ImageInput,
    workload: Workload,
    *,
    device: str = "auto",
    threads: int | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> Measurement:
    """Load a bundle and measure it; `progress` is told what comes next.

    Raises:
        BundleError, DeviceError, UsageError: as `pumice.load`.
        ImageError, ContextLengthError, GenerationError: as `Model.generate`.
    """

    def timed_load() -> tuple[Model, float]:
        progress("loading")
        began = time.perf_counter()
        loaded = load(bundle, device=device, threads=threads, prefix_cache_bytes=0, feature_cache_bytes=0)
        loaded.wait()
        return loaded, time.perf_counter() - began

    pixels = open_image(image)
    model, first_load = timed_load()
    ran_on = (model.device, model.threads)
    speeds = _speeds(model, pixels, workload.fitted(model.context_length), progress)
    memory = process_memory()
    loads = [first_load]
    while len(loads) < workload.repeats:
        del model  # two at once may not fit
        model, seconds = timed_load()
        loads.append(seconds)
    figures = (
        Figure(name="load", unit="s", values=tuple(loads)),
        *speeds,
        *(Figure(name=name, unit="MB", values=(size / 1e6,)) for name, size in memory.items()),
    )
    return Measurement(device=ran_on[0], threads=ran_on[1], figures=figures)


def _speeds(
    model: Model, image: Image.Image, workload: Workload, progress: Callable[[str], None]
) -> list[Figure]:
    steps = _steps(model, image, workload)
    values: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(workload.repeats + 1):
        for name, (_, step) in steps.items():
            progress(f"{name}, " + (f"{number} of {workload.repeats}" if number else "warming up"))
            value = step(number)
            if number:
                values[name].append(value)
    return [Figure(name=name, unit=unit, values=tuple(values[name])) for name, (unit, _) in steps.items()]


def _steps(model: Model, image: Image.Image, workload: Workload) -> dict[str, tuple[Unit, Step]]:
    """What every round does: for each figure its unit, and what measures it in a round of that number."""
    pipeline, prompt = model.pipeline, workload.prompt
    parts = Parts(manifest=model.manifest, decoder=pipeline.decoder, encoder=pipeline.encoder)

    def encode(number: int) -> float:
        (prepared,) = pipeline.builder.images([_variant(image, number)])
        return parts.encode(prepared)

    steps: dict[str, tuple[Unit, Step]] = {
        "image encode": ("s", encode),
        f"prefill, {prompt:,} tokens": ("tokens/s", lambda _: prompt / parts.prefill(prompt)),
        "time to first token, image + question": (
            "s",
            lambda number: _first_token(model, _variant(image, number)),
        ),
    }
    for context in workload.contexts:

        def decode(_: int, context: int = context) -> float:
            return 1 / statistics.median(parts.decode(context, workload.new))

        steps[f"decode, {context:,} tokens of context"] = ("tokens/s", decode)
    return steps


def _first_token(model: Model, image: Image.Image) -> float:
    """Seconds from the call to the first token of an answer about an image."""
    raw = model.manifest.chat.template_file is None
    prompt = f"{model.manifest.image_tokens.token}\n{QUESTION}" if raw else QUESTION
    return model.generate(prompt, image, raw=raw, max_new_tokens=1).timings.time_to_first_token


def _variant(image: Image.Image, number: int) -> Image.Image:
    """An image that nobody has seen: another one in every round."""
    variant = image.convert("RGB")
    side = max(1, min(variant.size) // 16)
    x, y = variant.width // 2, variant.height // 2  # edges may be cropped
    colour = (number * 37 % 256, number * 91 % 256, number * 151 % 256)
    variant.paste(colour, (x, y, x + side, y + side))
    return variant
