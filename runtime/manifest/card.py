"""A bundle's model card, `README.md`: what its manifest says, for people and for the Hugging Face hub.

Enters: a manifest. Leaves: Markdown with YAML front matter, the same for the same manifest. Names in a manifest are
whatever a checkpoint's author liked: none of them reaches YAML unless it is an identifier, nor Markdown but as code.

The card is no part of what a reader needs, and its owner may edit it, so `files` does not list it. Its last line has
the SHA-256 of all above it, by which a card is known that is still as pumice wrote it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from pumice.manifest.hub_id import is_hub_id
from pumice.manifest.regular_file import read_regular
from pumice.manifest.schema import License, Manifest

CARD_NAME = "README.md"
MOST_CARD_BYTES = 1 << 20
_SEAL = re.compile(rb"<!-- written by pumice; SHA-256 of all above: ([0-9a-f]{64}) -->\n")
_LONGEST = 200
"""Characters of a name."""

_LICENSE_ID = re.compile(r"[a-z0-9][a-z0-9.+-]{0,59}")
_LICENSE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 .,+_-]{0,79}")
_LICENSE_LINK = re.compile(r"https://[A-Za-z0-9][A-Za-z0-9._~/%+-]{0,250}|LICENSE(\.md|\.txt)?")
_TAG = re.compile(r"[a-z0-9][a-z0-9_.-]{0,39}")


def license_of(front_matter: dict[str, str]) -> License | None:
    """The licence that a card's front matter names by an identifier; None where it does not, or says it oddly."""
    found = front_matter.get("license", "")
    if not _LICENSE_ID.fullmatch(found):
        return None
    name, link = front_matter.get("license_name", ""), front_matter.get("license_link", "")
    return License(
        id=found,
        name=name if _LICENSE_NAME.fullmatch(name) else None,
        link=link if _LICENSE_LINK.fullmatch(link) else None,
    )


def front_matter(card: str) -> dict[str, str]:
    """The plain `key: value` lines of a card's front matter; whatever else YAML can say is passed over."""
    lines = card.splitlines()
    found: dict[str, str] = {}
    if not lines or lines[0].rstrip() != "---":
        return found
    for line in lines[1:]:
        if line.rstrip() == "---":
            return found
        key, colon, value = line.partition(":")
        if colon and key.isidentifier():
            found.setdefault(key, _scalar(value.strip()))
    return {}


def _scalar(value: str) -> str:
    """A plain or quoted scalar, without a comment behind it."""
    if value[:1] in ("'", '"'):
        return value[1:].partition(value[0])[0]
    return value.partition(" #")[0].rstrip()


def is_own(card: bytes) -> bool:
    """Whether a card is still as pumice wrote it."""
    body, _, last = card.removesuffix(b"\n").rpartition(b"\n")
    seal = _SEAL.fullmatch(last + b"\n")
    return seal is not None and seal[1].decode() == hashlib.sha256(body + b"\n").hexdigest()


def has_own_card(bundle: Path) -> bool:
    """Whether a bundle's folder has a card that nobody has edited."""
    try:
        return is_own(read_regular(bundle / CARD_NAME, MOST_CARD_BYTES))
    except OSError:
        return False


def render(manifest: Manifest, hub_id: str | None = None) -> bytes:
    """The card of a bundle, to be read in its folder or, with a `hub_id`, there."""
    body = "\n".join([*_front_matter(manifest), "", *_page(manifest, hub_id), "", ""])
    digest = hashlib.sha256(body.encode()).hexdigest()
    return f"{body}<!-- written by pumice; SHA-256 of all above: {digest} -->\n".encode()


def _front_matter(manifest: Manifest) -> Iterator[str]:
    source = manifest.source
    yield "---"
    yield "library_name: pumice"
    yield "pipeline_tag: image-text-to-text"
    if source.base_model is not msgspec.UNSET and is_hub_id(source.base_model):
        yield f"base_model: {json.dumps(source.base_model)}"
        if manifest.precision.quantized:
            yield "base_model_relation: quantized"
    licence = _license(manifest)
    if licence is not None:
        yield f"license: {json.dumps(licence.id)}"
        for key, value in (("license_name", licence.name), ("license_link", licence.link)):
            if value is not None:
                yield f"{key}: {json.dumps(value)}"
    yield "tags:"
    tags = (
        "pumice",
        "onnx",
        "onnxruntime",
        source.model_type,
        source.text_model_type,
        manifest.precision.name,
    )
    yield from (f"- {json.dumps(tag)}" for tag in dict.fromkeys(tags) if _TAG.fullmatch(tag))
    yield "---"


def _license(manifest: Manifest) -> License | None:
    """Checked once more: a manifest may be anybody's."""
    said = manifest.source.license
    if said is msgspec.UNSET:
        return None
    return license_of({"license": said.id, "license_name": said.name or "", "license_link": said.link or ""})


def _page(manifest: Manifest, hub_id: str | None) -> Iterator[str]:
    yield f"# {_code(manifest.source.checkpoint)} for pumice"
    yield ""
    yield "ONNX graphs and all that is needed to ask them about images: pumice does it with NumPy and ONNX Runtime"
    yield "alone, without PyTorch."
    yield ""
    yield "## Run it"
    yield ""
    yield f"    pip install 'pumice[cpu{',hub' if hub_id else ''}]'"
    yield f'    pumice run {hub_id or "."} -i image.png "What is this?"'
    yield ""
    yield "## What is inside"
    yield ""
    yield from _inside(manifest)
    yield ""
    yield "| part | MB |"
    yield "|---|---:|"
    yield from _sizes(manifest)
    yield ""
    yield "## Parity"
    yield ""
    yield from _parity(manifest.parity)
    yield ""
    yield "## Licence"
    yield ""
    licence = _license(manifest)
    if licence is None:
        yield "The checkpoint's card names none in a way that could be carried over. Its terms apply to this bundle."
    else:
        yield f"{_code(licence.id)}, as the checkpoint's card has it. Its terms apply to this bundle."


def _inside(manifest: Manifest) -> Iterator[str]:
    source, precision = manifest.source, manifest.precision
    yield (
        f"- checkpoint: {_code(source.checkpoint)}: {_code(source.vision_model_type)} and "
        f"{_code(source.text_model_type)}, {_code(source.dtype)}"
    )
    yield from (f"- adapter merged: {_code(a.adapter)}, scale {a.scale:g}" for a in source.adapters or ())
    stored = f"- stored as: {_code(precision.name)}"
    if precision.bits is not None:
        stored += f", {precision.bits} bits in blocks of {precision.block_size}"
        stored += (
            f" ({len(precision.quantized):,} matrices), the rest {_code(precision.float_type or 'fp32')}"
        )
    yield stored
    if precision.recipe is not None:
        yield f"- recipe: {_code(precision.recipe)}"
    yield f"- context: {manifest.decoder.context_length:,} tokens"
    yield f"- needs: onnxruntime {_code(manifest.requires.onnxruntime)} or newer"
    made = sorted(manifest.created_with.items())
    yield f"- made with: {', '.join(f'{_code(name)} {_code(version)}' for name, version in made)}"


def _sizes(manifest: Manifest) -> Iterator[str]:
    graphs = manifest.graphs
    parts = {
        "vision encoder": graphs.vision_encoder,
        "embedding": graphs.embedding,
        "decoder": graphs.decoder,
        "prefill": graphs.prefill,
    }
    for name, graph in parts.items():
        if graph is not None:
            size = sum(manifest.files[file].size for file in {graph.file, *graph.external_data})
            yield f"| {name} | {size / 1e6:,.1f} |"
    yield f"| all {len(manifest.files):,} files | {sum(e.size for e in manifest.files.values()) / 1e6:,.1f} |"


def _parity(parity: dict[str, Any] | None) -> Iterator[str]:
    if parity is None:
        yield "Not compared with the checkpoint: `pumice verify` does it, and writes the figures here."
        return
    yield f"`pumice verify` says **{_words(parity.get('verdict'))}**: {_words(parity.get('meaning'))}"
    yield f"(by {_words(parity.get('judged_by'))}, against transformers in float32; `PARITY.md` has all of it)."
    yield ""
    cases = parity.get("cases")
    for key, told in (
        ("same_input_ids", "same token ids"),
        ("same_pixel_values", "same pixels"),
        ("same_tokens", "same greedy tokens"),
    ):
        yield f"- {told}: {_number(parity.get(key))} of {_number(cases)} prompts"
    yield f"- KL of the next token: {_number(parity.get('kl'))} nats; most likely token the same: {_share(parity)}"
    text = parity.get("text")
    if isinstance(text, dict):
        yield (
            f"- perplexity of texts: {_number(text.get('perplexity'))}, the checkpoint's is "
            f"{_number(text.get('reference_perplexity'))}; KL {_number(text.get('kl'))} nats"
        )


def _share(parity: dict[str, Any]) -> str:
    top1 = parity.get("top1")
    return f"{top1:.1%}" if isinstance(top1, int | float) else "–"


def _number(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, int | float) else "–"


def _words(text: object) -> str:
    """A sentence of pumice's own, without whatever Markdown or HTML would be made of."""
    return re.sub(r"[^\w ,.:;'()%-]", "", str(text))[:_LONGEST]


def _code(text: str) -> str:
    """A name as inline code, in which nothing is markup."""
    plain = "".join("'" if c == "`" else c if c.isprintable() else "·" for c in text[:_LONGEST])
    return f"`{plain.strip() or '?'}`"
