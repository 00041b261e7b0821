"""Does a bundle say what its checkpoint says? Graphs, preprocessing and generated tokens against transformers.

Enters: a bundle and the checkpoint it was exported from. Leaves: a `Report`, printed as a table and stored in the
bundle as `parity.json` and `PARITY.md`, with a summary in the manifest.

The graphs are each fed transformers' own intermediate results, so that an error shows in the graph that makes it;
tokens are compared end to end, through `pumice.load`, as a user would generate them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray

import pumice
from pumice.errors import CheckpointError
from pumice.export.bundle import replace_in_bundle
from pumice.export.decoder import cache_names
from pumice.export.parity import Case, Floats, GraphError, LogitError, Report, markdown, summarize
from pumice.export.probes import Probe, default_probes
from pumice.export.progress import Progress, Silent
from pumice.manifest import FileEntry, GraphSpec, Manifest, load_manifest


@dataclass(frozen=True, kw_only=True)
class Verified:
    """What was found, and the manifest that now records it."""

    report: Report
    manifest: Manifest


def verify_bundle(
    bundle: Path,
    checkpoint: Path,
    *,
    probes: Sequence[Probe] = (),
    max_new_tokens: int = 32,
    progress: Progress | None = None,
) -> Verified:
    """Compare `bundle` with `checkpoint` in float32 and store the figures in the bundle.

    Args:
        bundle: a bundle made by `export_bundle`.
        checkpoint: the folder that it was made from.
        probes: prompts and pictures to compare on; some of our own where none are given.
        max_new_tokens: greedy tokens to compare for each probe.
        progress: told what is being done.

    Raises:
        BundleError: the bundle is damaged.
        CheckpointError: transformers cannot load the checkpoint.
    """
    progress = progress or Silent()
    manifest = load_manifest(bundle)
    probes = probes or default_probes(has_template=manifest.chat.template_file is not None)
    progress.stage("verify: loading transformers' model")
    reference = Reference(checkpoint)
    progress.stage("verify: comparing", steps=len(probes))
    graphs = BundleGraphs(bundle, manifest)
    model = pumice.load(bundle, device="cpu")
    cases = []
    for probe in probes:
        cases.append(_compare(probe, reference, graphs, model, max_new_tokens))
        progress.advance()
    report = Report(
        precision=manifest.precision.name,
        checkpoint=manifest.source.checkpoint,
        versions={name: version(name) for name in ("pumice", "onnxruntime", "torch", "transformers")},
        summary=summarize(manifest.precision.name, cases),
        cases=tuple(cases),
    )
    return Verified(report=report, manifest=_store(bundle, manifest, report))


def _store(bundle: Path, manifest: Manifest, report: Report) -> Manifest:
    summary: dict[str, Any] = msgspec.to_builtins(report.summary)
    contents = {
        "parity.json": msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n",
        "PARITY.md": markdown(report).encode(),
    }
    entries = {
        name: FileEntry(size=len(data), sha256=hashlib.sha256(data).hexdigest())
        for name, data in contents.items()
    }
    updated = replace(manifest, parity=summary, files=manifest.files | entries)
    replace_in_bundle(bundle, contents, updated)
    return updated


class Reference:
    """transformers' model and processor, in float32, and its intermediate results."""

    def __init__(self, checkpoint: Path) -> None:
        from transformers import AutoProcessor, LlavaForConditionalGeneration
        from transformers.utils import logging

        logging.disable_progress_bar()
        try:
            self.processor = AutoProcessor.from_pretrained(checkpoint, local_files_only=True, backend="pil")
            self.model = LlavaForConditionalGeneration.from_pretrained(
                checkpoint, dtype=torch.float32, local_files_only=True
            ).eval()
        except (OSError, ValueError, KeyError) as error:
            reason = " ".join(str(error).split())
            raise CheckpointError(f"transformers cannot load {checkpoint}: {reason}") from None

    def inputs(self, probe: Probe) -> dict[str, torch.Tensor]:
        """`input_ids`, `attention_mask`, and `pixel_values` where there are pictures, as the processor makes them."""
        text = probe.prompt
        if probe.messages is not None:
            text = self.processor.apply_chat_template(list(probe.messages), add_generation_prompt=True)
        pictures = list(probe.images) or None
        return dict(self.processor(images=pictures, text=text, return_tensors="pt"))

    @torch.no_grad()
    def run(self, inputs: dict[str, torch.Tensor], max_new_tokens: int) -> Expected:
        """Everything that is compared, from one forward pass and one greedy generation."""
        core = self.model.model
        embeds = core.get_input_embeddings()(inputs["input_ids"])
        features = torch.zeros(0, embeds.shape[-1])
        if "pixel_values" in inputs:
            features = torch.cat(list(core.get_image_features(inputs["pixel_values"]).pooler_output))
            mask = (inputs["input_ids"] == self.model.config.image_token_id)[..., None]
            embeds = embeds.masked_scatter(mask, features)
        logits = self.model(inputs_embeds=embeds, attention_mask=inputs["attention_mask"]).logits
        tokens = self.model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False, num_beams=1)
        new = tokens[0, inputs["input_ids"].shape[1] :]
        return Expected(features.numpy(), embeds.numpy(), logits.numpy(), new.tolist())


@dataclass(frozen=True)
class Expected:
    """`image_features` [M, D], `inputs_embeds` [1, T, D], `logits` [1, T, V] and the new token ids."""

    features: Floats
    embeds: Floats
    logits: Floats
    tokens: list[int]


class BundleGraphs:
    """The bundle's graphs, each run by itself."""

    def __init__(self, bundle: Path, manifest: Manifest) -> None:
        self.manifest = manifest
        self.vision_encoder = _session(bundle, manifest.graphs.vision_encoder)
        self.embedding = _session(bundle, manifest.graphs.embedding)
        self.decoder = _session(bundle, manifest.graphs.decoder)

    def features(self, pixel_values: Floats) -> Floats:
        """[N, 3, H, W] → [M, D]."""
        return _first(self.vision_encoder.run(None, {"pixel_values": pixel_values}))

    def embeds(self, input_ids: NDArray[np.int64], features: Floats) -> Floats:
        """[1, T] and [M, D] → [1, T, D]."""
        return _first(self.embedding.run(None, {"input_ids": input_ids, "image_features": features}))

    def logits(self, embeds: Floats) -> Floats:
        """[1, T, D] → [1, T, V]."""
        shape = self.manifest.decoder
        past = np.zeros((1, shape.kv_heads, 0, shape.head_dim), dtype=np.float32)
        feeds = dict.fromkeys(cache_names("past_key_values", shape.layers), past)
        feeds |= {
            "inputs_embeds": embeds,
            "attention_mask": np.ones(embeds.shape[:2], dtype=np.int64),
            "num_logits_to_keep": np.array(0, dtype=np.int64),
        }
        return _first(self.decoder.run(["logits"], feeds))


def _session(bundle: Path, graph: GraphSpec) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(bundle / graph.file, options, providers=["CPUExecutionProvider"])


def _first(outputs: Sequence[Any]) -> Floats:
    return np.asarray(outputs[0], dtype=np.float32)


def _compare(
    probe: Probe, reference: Reference, graphs: BundleGraphs, model: pumice.Model, max_new_tokens: int
) -> Case:
    inputs = reference.inputs(probe)
    expected = reference.run(inputs, max_new_tokens)
    prompt = list(probe.messages) if probe.messages is not None else probe.prompt
    raw = probe.messages is None
    prepared = model.prepare(prompt, list(probe.images), raw=raw)
    ours = model.generate(prompt, images=list(probe.images), max_new_tokens=max_new_tokens, raw=raw)
    ids = inputs["input_ids"].numpy()
    pixels = inputs["pixel_values"].numpy() if "pixel_values" in inputs else None
    return Case(
        name=probe.name,
        prompt_tokens=ids.shape[1],
        images=len(probe.images),
        same_input_ids=bool(np.array_equal(prepared.input_ids, ids)),
        same_pixel_values=pixels is None or bool(np.array_equal(prepared.pixel_values, pixels)),
        vision_encoder=None if pixels is None else GraphError.of(graphs.features(pixels), expected.features),
        embedding=GraphError.of(graphs.embeds(ids, expected.features), expected.embeds),
        decoder=LogitError.of(graphs.logits(expected.embeds), expected.logits),
        expected_tokens=tuple(expected.tokens),
        tokens=tuple(_with_end(ours, expected.tokens, model.manifest.tokens.eos_ids)),
    )


def _with_end(ours: pumice.Generation, expected: list[int], eos_ids: tuple[int, ...]) -> list[int]:
    """transformers keeps the end token that stopped it; a Generation's ids may not."""
    ids = list(ours.token_ids)
    ended = ours.finish_reason == "stop" and (not ids or ids[-1] not in eos_ids)
    return [*ids, expected[-1] if expected[-1] in eos_ids else eos_ids[0]] if ended else ids
