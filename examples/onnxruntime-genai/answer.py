"""A question about images, answered by onnxruntime-genai from a pumice bundle, without pumice.

    pip install onnxruntime-genai jinja2 numpy
    python answer.py BUNDLE "What is this?" image.png …

genai has no type for LLaVA: the bundle calls itself a gemma3, whose graphs have the same inputs and outputs. What genai
would write into a prompt for a Gemma is passed over; its tokenizer and the pixels of its image processor are used.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime_genai as og
from jinja2.sandbox import ImmutableSandboxedEnvironment


class Client:
    """An opened bundle."""

    def __init__(self, bundle: Path) -> None:
        self.manifest = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
        self.template = (bundle / "chat_template.jinja").read_text(encoding="utf-8")
        self.model = og.Model(str(bundle))
        self.tokenizer = og.Tokenizer(self.model)
        processor = (bundle / "genai_processor.json").is_file()
        self.processor = self.model.create_multimodal_processor() if processor else None

    def prompt(self, question: str, images: int) -> str:
        """The chat template's text, with one placeholder for each image."""
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        source = re.sub(r"{%-?\s*(end)?generation\s*-?%}", "", self.template)
        content = [*({"type": "image"} for _ in range(images)), {"type": "text", "text": question}]
        return environment.from_string(source).render(
            messages=[{"role": "user", "content": content}],
            add_generation_prompt=True,
            **{name: text for name, text in self.manifest["tokens"].items() if name.endswith("_token")},
        )

    def ids(self, prompt: str) -> list[int]:
        """With as many image tokens as an image has features; for models whose images are all of one size."""
        marks = self.manifest["image_tokens"]
        bos = self.manifest["tokens"]["bos_token"]
        begun = bos is not None and prompt.startswith(
            bos
        )  # some templates write <s> themselves; else it would be missing
        self.tokenizer.update_options(add_special_tokens="false" if begun else "true")
        expanded = prompt.replace(marks["token"], marks["token"] * marks["per_image"])
        return [int(token) for token in self.tokenizer.encode(expanded)]

    def pixels(self, files: Sequence[Path]) -> np.ndarray:
        """By genai's own image processor: right for square images, and where the bundle resizes to a fixed size."""
        assert self.processor is not None, "this bundle's images are prepared by the caller"
        images = og.Images.open(*map(str, files))
        return self.processor("<start_of_image>" * len(files), images=images)["pixel_values"].as_numpy()

    def stream(self, ids: Sequence[int], pixels: np.ndarray | None, most: int) -> Iterator[int]:
        """Greedy tokens, one by one. `pixels` are float32 [images, 3, height, width]."""
        inputs = og.NamedTensors()
        inputs["input_ids"] = np.array([ids], np.int32)  # int64 is silently read wrongly
        if pixels is not None:
            features = list(ids).count(self.manifest["image_tokens"]["token_id"])
            inputs["pixel_values"] = pixels
            inputs["num_image_tokens"] = np.array([features], np.int64)  # without it answers are garbage
        params = og.GeneratorParams(self.model)
        params.set_search_options(do_sample=False, max_length=len(ids) + most)
        generator = og.Generator(self.model, params)
        generator.set_inputs(inputs)
        while not generator.is_done():
            generator.generate_next_token()
            yield int(generator.get_next_tokens()[0])


def main(bundle: str, question: str, *images: str) -> None:
    """Print the answer while it comes."""
    client = Client(Path(bundle))
    ids = client.ids(client.prompt(question, len(images)))
    pixels: Any = client.pixels([Path(image) for image in images]) if images else None
    decoder = client.tokenizer.create_stream()
    for token in client.stream(ids, pixels, 256):
        print(decoder.decode(token), end="", flush=True)
    print()


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit('usage: python answer.py BUNDLE "QUESTION" [IMAGE …]')
    main(*sys.argv[1:])
