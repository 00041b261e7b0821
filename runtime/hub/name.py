"""`org/name`, or `org/name@revision`: a repository of models on the hub.

Enters: a text. Leaves: a `HubName`, or None where the text can only be a path.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from pumice.errors import UsageError
from pumice.manifest.hub_id import is_hub_id

_REVISION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*(/[A-Za-z0-9_][A-Za-z0-9_.+-]*)*")
_LONGEST_REVISION = 250


@dataclass(frozen=True, kw_only=True)
class HubName:
    """A repository, and a branch, tag or commit of it; None is its main branch."""

    repo: str
    revision: str | None = None

    def __str__(self) -> str:
        return self.repo if self.revision is None else f"{self.repo}@{self.revision}"


def hub_name(text: str, revision: str | None = None) -> HubName | None:
    """What `text` names on the hub, `revision` given with it or beside it; None where it can only be a path.

    Raises:
        UsageError: a revision that can be none, or two of them.
    """
    repo, at, behind = text.partition("@")
    if not is_hub_id(repo):
        return None
    if at and revision is not None:
        raise UsageError(f"got the revision {revision!r} and another in {text!r}, expected one of them")
    chosen = behind if at else revision
    if chosen is not None and not _is_revision(chosen):
        raise UsageError(f"{chosen!r} is no revision: expected a branch, a tag or a commit")
    return HubName(repo=repo, revision=chosen)


def _is_revision(text: str) -> bool:
    """It becomes part of an address and of a path in the cache."""
    return len(text) <= _LONGEST_REVISION and ".." not in text and _REVISION.fullmatch(text) is not None
