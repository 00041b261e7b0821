"""huggingface_hub, imported when it is first needed, and its failures in one line each.

Enters: a call to it. Leaves: what it returned, or a `HubError`.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any, TypeVar

from pumice.errors import HubError, UsageError
from pumice.hub.name import HubName

Result = TypeVar("Result")


def hub_client() -> ModuleType:
    """The module. Raises UsageError where it is not installed."""
    try:
        import huggingface_hub
        import huggingface_hub.constants
        import huggingface_hub.errors
        import huggingface_hub.utils
    except ModuleNotFoundError as error:
        raise UsageError(f"the hub needs an extra: pip install 'pumice[hub]' (no {error.name})") from None
    return huggingface_hub


def is_offline() -> bool:
    """Whether `HF_HUB_OFFLINE` is set."""
    return bool(hub_client().constants.HF_HUB_OFFLINE)


def page_of(name: HubName) -> str:
    """Where people look at a repository."""
    return f"{hub_client().constants.ENDPOINT}/{name.repo}"


def ask(
    name: HubName,
    call: Callable[..., Result],
    *arguments: Any,
    doing: str,
    bars: bool = False,
    **options: Any,
) -> Result:
    """What a function of the client returns; `doing` says in a message what was tried, as in `fetch`.

    With `bars` the client shows its progress where somebody looks.

    Raises:
        HubError: whatever it raised.
    """
    try:
        with contextlib.nullcontext() if bars and sys.stderr.isatty() else _no_bars():
            return call(*arguments, **options)
    except (
        Exception
    ) as error:  # the client's, its HTTP library's, and those of its compiled parts have no common root
        raise HubError(_told(name, error, doing)) from error


def remote_files(name: HubName, commit: str, *, doing: str) -> dict[str, Any]:
    """Every file of a commit by its path, as the client describes it: `size`, `blob_id`, of large ones `lfs.sha256`."""

    def listing() -> dict[str, Any]:
        tree = hub_client().HfApi().list_repo_tree(name.repo, recursive=True, revision=commit)
        return {entry.path: entry for entry in tree if hasattr(entry, "size")}

    return ask(name, listing, doing=doing)


@contextlib.contextmanager
def _no_bars() -> Iterator[None]:
    """The client's own switch, put back afterwards; HF_HUB_DISABLE_PROGRESS_BARS is stronger."""
    client = hub_client()
    if client.utils.are_progress_bars_disabled() or client.constants.HF_HUB_DISABLE_PROGRESS_BARS is not None:
        yield
        return
    client.utils.disable_progress_bars()
    try:
        yield
    finally:
        client.utils.enable_progress_bars()


def _told(name: HubName, error: Exception, doing: str) -> str:
    errors = hub_client().errors
    login = "`hf auth login`, or HF_TOKEN"
    if isinstance(error, errors.GatedRepoError):
        return f"{name.repo} is gated: accept its terms at {page_of(name)}, and log in ({login})"
    if isinstance(error, errors.RepositoryNotFoundError):
        return (
            f"cannot {doing} {name}: neither a folder here nor a model on the hub that you may see "
            f"(a private one needs {login})"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return (
            f"{name.repo} has no revision {name.revision or 'main'!r}: expected a branch, a tag or a commit"
        )
    if isinstance(error, errors.LocalTokenNotFoundError):
        return f"cannot {doing} {name}: nobody is logged in to the hub ({login})"
    if isinstance(error, errors.OfflineModeIsEnabled) or (
        isinstance(error, errors.LocalEntryNotFoundError) and is_offline()
    ):
        return f"cannot {doing} {name}: neither a folder here nor whole in the hub's cache, and HF_HUB_OFFLINE is set"
    if isinstance(error, errors.LocalEntryNotFoundError):
        return (
            f"cannot {doing} {name}: neither a folder here nor whole in the hub's cache, and "
            f"{hub_client().constants.ENDPOINT} cannot be reached"
        )
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (401, 403):
        return f"cannot {doing} {name}: the hub refuses ({status}): expected a token that may do it ({login})"
    told = _first_line(error) + (f": {_first_line(error.__cause__)}" if type(error) is RuntimeError else "")
    return f"cannot {doing} {name}: {told}"


def _first_line(error: BaseException | None) -> str:
    return (next(iter(str(error).strip().splitlines()), "") or type(error).__name__)[:300]
