"""A reader of bundles written from docs/bundle-format.md alone, as one in another language would be.

Enters: a bundle's folder. Leaves: what pumice makes of the same question. Nothing of pumice is imported; Pillow only
decodes files. It reads bundles of version 1 and answers greedily.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from PIL import Image
from tokenizers import Tokenizer

from tests.runtime.prompt.jinja_reference import render


class PlainReader:
    """One bundle; `exact` sets what the page says for x86 processors without VNNI."""

    def __init__(self, folder: Path, exact: bool) -> None:
        self.manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_bytes())
        assert self.manifest["schema_version"] == 1
        chat = self.manifest["chat"]
        self._tokenizer = Tokenizer.from_file(str(folder / chat["tokenizer_file"]))
        self._template = (folder / chat["template_file"]).read_text()
        options = onnxruntime.SessionOptions()
        if exact:
            options.add_session_config_entry("session.x64quantprecision", "1")
        self._graphs = {
            name: onnxruntime.InferenceSession(folder / graph["file"], options)
            for name, graph in self.manifest["graphs"].items()
            if graph is not None
        }

    def ids(self, question: str, images: int) -> list[int]:
        """The prompt's token ids."""
        content = [*[{"type": "image"}] * images, {"type": "text", "text": question}]
        texts = {
            name: text for name, text in self.manifest["tokens"].items() if name.endswith("_token") and text
        }
        prompt = render(
            self._template, [{"role": "user", "content": content}], add_generation_prompt=True, **texts
        )
        written = bool(texts.get("bos_token")) and prompt.startswith(texts["bos_token"])
        marks, ids = self.manifest["image_tokens"], []
        for token in self._tokenizer.encode(prompt, add_special_tokens=not written).ids:
            ids += [token] * (marks["per_image"] if token == marks["token_id"] else 1)
        return ids

    def pixels(self, image: Image.Image) -> NDArray[np.float32]:
        """An RGB image as `pixel_values` [3, height, width]."""
        spec, pixels_HWC = self.manifest["image"], np.asarray(image)
        height, width = pixels_HWC.shape[:2]
        if edge := spec["resize_shortest_edge"]:
            size = (
                (int(edge * height / width), edge) if width <= height else (edge, int(edge * width / height))
            )
        else:
            size = spec["resize_to"] or (height, width)
        pixels_HWC = _resized(pixels_HWC, size, spec["resample"])
        if spec["crop_to"]:
            pixels_HWC = _cropped(pixels_HWC, *spec["crop_to"])
        values = pixels_HWC.transpose(2, 0, 1).astype(np.float64)
        if spec["rescale_factor"] is not None:
            values = values * spec["rescale_factor"]
        values = values.astype(np.float32)
        if spec["mean"] is not None:
            mean, std = (np.array(spec[key], np.float32).reshape(3, 1, 1) for key in ("mean", "std"))
            values = (values - mean) / std
        return values

    def answer(self, ids: list[int], pixels: list[NDArray[np.float32]]) -> Iterator[int]:
        """Greedy tokens, the end token included."""
        decoder = self.manifest["decoder"]
        none = np.zeros((0, decoder["hidden_size"]), np.float32)
        features = self._run("vision_encoder", pixel_values=np.stack(pixels))[0] if pixels else none
        shape = (1, decoder["kv_heads"], 0, decoder["head_dim"])
        past = {
            f"past_key_values.{layer}.{kind}": np.zeros(shape, decoder["kv_dtype"])
            for layer in range(decoder["layers"])
            for kind in ("key", "value")
        }
        new, total = ids, len(ids)
        while total <= decoder["context_length"]:
            embeds = self._run("embedding", input_ids=np.array([new]), image_features=features)[0]
            mask = np.ones((1, total), np.int64)
            logits_BNV, *present = self._run("decoder", inputs_embeds=embeds, attention_mask=mask, **past)
            token = int(logits_BNV[0, -1].argmax())
            yield token
            if token in self.manifest["tokens"]["eos_ids"]:
                return
            past = dict(zip(past, present, strict=True))
            new, features, total = [token], none, total + 1

    def _run(self, graph: str, **inputs: Any) -> list[Any]:
        listed = [tensor["name"] for tensor in self.manifest["graphs"][graph]["outputs"]]
        found: list[Any] = self._graphs[graph].run(listed, inputs)
        return found


def _resized(pixels_HWC: NDArray[np.uint8], size: tuple[int, int], resample: int) -> NDArray[np.uint8]:
    """Two passes, the columns' first where the height loses more than twice as many pixels as the width."""
    lost = [old - new for old, new in zip(pixels_HWC.shape[:2], size, strict=True)]
    for axis in (0, 1) if lost[0] > 0 and lost[0] > 2 * lost[1] else (1, 0):
        if pixels_HWC.shape[axis] != size[axis]:
            along = np.moveaxis(pixels_HWC, axis, 0)
            pixels_HWC = np.moveaxis(_pass(along, size[axis], resample), 0, axis)
    return pixels_HWC


def _pass(pixels: NDArray[np.uint8], length: int, resample: int) -> NDArray[np.uint8]:
    function, reach = {2: (_bilinear, 1.0), 3: (_bicubic, 2.0)}[resample]
    scale = len(pixels) / length
    wide = max(scale, 1.0)
    out = np.empty((length, *pixels.shape[1:]), np.uint8)
    for position in range(length):
        centre = (position + 0.5) * scale
        low = max(0, int(centre - reach * wide + 0.5))
        high = min(len(pixels), int(centre + reach * wide + 0.5))
        weights = [function((i - centre + 0.5) / wide) for i in range(low, high)]
        total = sum(weights)
        whole = [math.trunc(w / total * (1 << 22) + math.copysign(0.5, w)) for w in weights]
        sums = (1 << 21) + np.tensordot(np.array(whole, np.int64), pixels[low:high].astype(np.int64), 1)
        out[position] = np.clip(sums >> 22, 0, 255)
    return out


def _bilinear(x: float) -> float:
    return max(0.0, 1.0 - abs(x))


def _bicubic(x: float) -> float:
    x = abs(x)
    if x < 1:
        return (1.5 * x - 2.5) * x * x + 1
    return ((-0.5 * x + 2.5) * x - 4) * x + 2 if x < 2 else 0.0


def _cropped(pixels_HWC: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Row y is row y + floor((old − new) / 2) of the image, zeros where there is none; columns likewise."""
    out = np.zeros((height, width, 3), np.uint8)
    top, left = (pixels_HWC.shape[0] - height) // 2, (pixels_HWC.shape[1] - width) // 2
    for y in range(height):
        for x in range(width):
            if 0 <= y + top < pixels_HWC.shape[0] and 0 <= x + left < pixels_HWC.shape[1]:
                out[y, x] = pixels_HWC[y + top, x + left]
    return out
