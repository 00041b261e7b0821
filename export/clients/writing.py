"""A bundle's folder made ready for every client that can take the model.

Enters: the folder, with graphs and the checkpoint's own files, and what the manifest says of them. Leaves: the files of
`transformers_js` and `genai`. A client that cannot take the model gets none, so that it says at once that it cannot.
"""

from __future__ import annotations

from pathlib import Path

from pumice.export.clients import genai, transformers_js
from pumice.manifest import Manifest
from pumice.models.config import LlavaConfig


def write_clients(folder: Path, manifest: Manifest, config: LlavaConfig) -> None:
    """Write what the clients read; `config` is the model's."""
    if transformers_js.refusal(manifest) is None:
        transformers_js.write(folder, manifest, config)
    if genai.refusal(manifest) is None:
        genai.write(folder, manifest, config)
