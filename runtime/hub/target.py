"""The repository that a bundle is to be pushed to, looked at before anything is done.

Enters: its name. Leaves: a `Target`, or an error that says what is in the way: nobody logged in, a token that may only
read, a namespace of others, a repository that holds something else. As on a disk, what is replaced is a bundle or
nothing: files that no bundle's manifest lists are somebody's, and stay.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pumice.errors import HubError, UsageError
from pumice.hub.client import ask, hub_client, is_offline, remote_files
from pumice.hub.name import HubName, hub_name
from pumice.manifest import MANIFEST_NAME
from pumice.manifest.card import CARD_NAME, MOST_CARD_BYTES, is_own
from pumice.manifest.file import MOST_BYTES, listed_files
from pumice.manifest.regular_file import read_regular

_BESIDE = (".gitattributes", ".gitignore", CARD_NAME, "NOTICE")
_SHOWN = 3


@dataclass(frozen=True, kw_only=True)
class Target:
    """A repository as it is: `head` is None where it has to be made, `branch_from` where its branch has to be.

    `replaced` are the files of the bundle in it; `card_is_theirs` says that somebody has edited its card.
    """

    name: HubName
    private: bool
    head: str | None = None
    branch_from: str | None = None
    replaced: frozenset[str] = field(default_factory=frozenset)
    card_is_theirs: bool = False


def target_name(text: str, revision: str | None = None) -> HubName:
    """The repository that somebody named. Raises UsageError where it can be none."""
    name = hub_name(text, revision)
    if name is None:
        raise UsageError(f"{text!r} is no name on the hub: expected org/name, or org/name@branch")
    return name


def check_target(name: HubName, *, private: bool = False) -> Target:
    """Look whether a bundle can be pushed there, and change nothing.

    Raises:
        HubError: it cannot, or the hub cannot be asked.
        UsageError: no client is installed.
    """
    client = hub_client()
    if is_offline():
        raise HubError(f"cannot push to {name}: HF_HUB_OFFLINE is set")
    api = client.HfApi(library_name="pumice")
    account = ask(name, api.whoami, doing="push to")
    _check_token(name, account)
    try:
        info = ask(name, api.repo_info, name.repo, doing="push to")
    except HubError as error:
        if isinstance(error.__cause__, client.errors.GatedRepoError) or not isinstance(
            error.__cause__, client.errors.RepositoryNotFoundError
        ):
            raise
        _check_namespace(name, account)
        return Target(name=name, private=private)
    ask(name, api.auth_check, name.repo, write=True, doing="push to")
    if private and not info.private:
        raise HubError(
            f"{name.repo} exists and is public: --private is for a repository that is made; change it in its settings"
        )
    return _existing(api, name, private, info.sha)


def _check_token(name: HubName, account: dict[str, Any]) -> None:
    token = account.get("auth", {}).get("accessToken", {})
    if isinstance(token, dict) and token.get("role") == "read":
        raise HubError(
            f"cannot push to {name}: the token of {account.get('name')} may only read: make one that writes"
        )


def _check_namespace(name: HubName, account: dict[str, Any]) -> None:
    """A repository is made in the user's own namespace, or in one of their organisations."""
    orgs = [str(org.get("name")) for org in account.get("orgs", ()) if isinstance(org, dict)]
    own = [str(account.get("name")), *orgs]
    namespace = name.repo.partition("/")[0]
    if namespace.lower() not in (known.lower() for known in own):
        raise HubError(
            f"cannot push to {name}: {namespace} is neither you nor an organisation of yours ({', '.join(own)})"
        )


def _existing(api: Any, name: HubName, private: bool, main: str) -> Target:
    errors = hub_client().errors
    head, branch_from = main, None
    if name.revision is not None:
        try:
            head = ask(name, api.repo_info, name.repo, revision=name.revision, doing="push to").sha
        except HubError as error:
            if not isinstance(error.__cause__, errors.RevisionNotFoundError):
                raise
            branch_from = main
    files = remote_files(name, head, doing="push to")
    listed = _listed(api, name, head, files)
    strangers = sorted(path for path in files if listed is None and not _may_be_beside(path))
    if strangers:
        more = f" and {len(strangers) - _SHOWN} more" if len(strangers) > _SHOWN else ""
        raise HubError(
            f"{name} holds something else than a bundle ({', '.join(strangers[:_SHOWN])}{more}): "
            "push to a repository of its own"
        )
    card = _small(api, name, head, files, CARD_NAME, MOST_CARD_BYTES)
    return Target(
        name=name,
        private=private,
        head=head,
        branch_from=branch_from,
        replaced=frozenset(files.keys() & set(listed or ())),
        card_is_theirs=CARD_NAME in files and (card is None or not is_own(card)),
    )


def _listed(api: Any, name: HubName, commit: str, files: dict[str, Any]) -> Collection[str] | None:
    manifest = _small(api, name, commit, files, MANIFEST_NAME, MOST_BYTES)
    return None if manifest is None else listed_files(manifest)


def _small(api: Any, name: HubName, commit: str, files: dict[str, Any], path: str, most: int) -> bytes | None:
    """A file's bytes; None where there is none, or a larger one."""
    if path not in files or files[path].size > most:
        return None
    there = ask(name, api.hf_hub_download, name.repo, path, revision=commit, doing="push to")
    try:
        return read_regular(Path(there), most)
    except OSError:
        return None


def _may_be_beside(path: str) -> bool:
    return path in _BESIDE or path.startswith("LICENSE")
