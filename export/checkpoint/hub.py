"""Fetching a checkpoint from the Hugging Face hub into its cache.

Enters: a hub id. Leaves: the folder of its snapshot. The JSON files come first and are checked, so that a
model that is not supported is refused before gigabytes of weights are fetched.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from pumice.errors import CheckpointError
from pumice.export.progress import Progress
from pumice.manifest.hub_id import is_hub_id as is_hub_id

SMALL_FILES = ("*.json", "*.jinja", "tokenizer.model", "LICENSE*", "README.md")
WEIGHTS = ("*.safetensors",)
SUBFOLDERS = ("*/*",)


def fetch(hub_id: str, check: Callable[[Path], object], progress: Progress) -> Path:
    """Fetch `hub_id`: small files, then `check` of the folder, then weights; the cache is used.

    Raises:
        CheckpointError: unknown, gated or private id, no connection; and whatever `check` raises.
    """
    progress.stage(f"fetching {hub_id}")
    folder = _snapshot(hub_id, SMALL_FILES, progress)
    check(folder)
    return _snapshot(hub_id, SMALL_FILES + WEIGHTS, progress)


def _snapshot(hub_id: str, patterns: tuple[str, ...], progress: Progress) -> Path:
    from huggingface_hub import errors, snapshot_download
    from tqdm import tqdm

    class Relay(tqdm):
        """tqdm's interface over `progress`: it shows nothing, and passes on the bytes written to disk."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            self._relays = str(kwargs.get("desc", "")).startswith("Reconstructing")
            super().__init__(*args, **{**kwargs, "disable": True})

        def update(self, n: float | None = 1) -> None:
            if self._relays:
                progress.advance(int(n or 0))
            super().update(n)

    options: dict[str, Any] = {"allow_patterns": list(patterns), "ignore_patterns": list(SUBFOLDERS)}
    try:
        with suppress(errors.DryRunError):  # offline; the cache may have it all
            wanted = snapshot_download(hub_id, dry_run=True, tqdm_class=Relay, **options)
            size = sum(file.file_size for file in wanted if file.will_download)
            progress.stage(f"fetching {hub_id}", total_bytes=size)
        return Path(snapshot_download(hub_id, tqdm_class=Relay, **options))
    except errors.GatedRepoError:
        raise CheckpointError(
            f"{hub_id} is gated: accept its terms at https://huggingface.co/{hub_id} and run `hf auth login`"
        ) from None
    except errors.RepositoryNotFoundError:
        raise CheckpointError(
            f"{hub_id} is neither a folder here nor a model on the hub (a private one needs `hf auth login`)"
        ) from None
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled):
        raise CheckpointError(
            f"{hub_id} is neither a folder here nor in the hub's cache, and the hub cannot be reached: "
            "check the path, or the connection"
        ) from None
    except (errors.HFValidationError, errors.HfHubHTTPError, OSError) as error:
        raise CheckpointError(f"cannot fetch {hub_id}: {str(error).splitlines()[0]}") from None
