"""A bundle becomes a commit on the hub: all of it in one, or none.

Enters: a bundle's folder, and where it goes. Leaves: a commit that holds the bundle and its card, without the files of
a bundle that was there before. Only files that the manifest lists are pushed, and each was digested before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from pumice.bundle.folder import Bundle
from pumice.errors import HubError
from pumice.hub.client import ask, hub_client, page_of, remote_files
from pumice.hub.name import HubName
from pumice.hub.target import Target, check_target
from pumice.manifest import MANIFEST_NAME
from pumice.manifest.card import CARD_NAME, MOST_CARD_BYTES, is_own, render
from pumice.manifest.regular_file import read_regular


@dataclass(frozen=True, kw_only=True)
class Pushed:
    """Where a bundle is now: its page, its commit, and bytes of it all."""

    url: str
    commit: str
    nbytes: int


def push(
    bundle: Bundle,
    name: HubName,
    *,
    private: bool = False,
    message: str | None = None,
    tell: Callable[[str], None] | None = None,
) -> Pushed:
    """Push a bundle that was opened, and so checked; the repository and its branch are made where there are none.

    Raises:
        HubError: as `check_target`; or it did not arrive whole, or the repository has changed meanwhile.
    """
    target = check_target(name, private=private)
    client = hub_client()
    api = client.HfApi(library_name="pumice")
    head = _made(api, target)
    files = bundle.manifest.files
    total = sum(entry.size for entry in files.values())
    if tell is not None:
        tell(f"pushing {total / 1e6:,.1f} MB in {len(files)} files to {page_of(name)}")
    commit = ask(
        name,
        api.create_commit,
        name.repo,
        list(_operations(bundle, target, tell or (lambda _: None))),
        commit_message=message or f"{bundle.manifest.source.checkpoint[:100]} as a bundle of pumice",
        revision=name.revision,
        parent_commit=head,
        doing="push to",
        bars=tell is not None,
    ).oid
    _check_arrived(bundle, name, commit)
    return Pushed(url=page_of(name), commit=commit, nbytes=total)


def _made(api: Any, target: Target) -> str:
    """The commit that the bundle's follows; the repository and the branch are there."""
    name = target.name
    if target.head is None:
        ask(name, api.create_repo, name.repo, private=target.private, doing="push to")
        head: str = ask(name, api.repo_info, name.repo, doing="push to").sha
    else:
        head = target.head
    if name.revision is not None and (target.branch_from is not None or target.head is None):
        ask(
            name,
            api.create_branch,
            name.repo,
            branch=name.revision,
            revision=target.branch_from,
            exist_ok=True,
            doing="push to",
        )
    return head


def _operations(bundle: Bundle, target: Target, tell: Callable[[str], None]) -> Iterator[Any]:
    client = hub_client()
    names = (*bundle.manifest.files, MANIFEST_NAME)
    for path in names:
        yield client.CommitOperationAdd(path_in_repo=path, path_or_fileobj=str(bundle.path(path)))
    for path in sorted(target.replaced - set(names)):
        yield client.CommitOperationDelete(path_in_repo=path)
    card = _card(bundle, target.name)
    if target.card_is_theirs and is_own(card):
        tell(f"the {CARD_NAME} that is there stays, for somebody has edited it")
    elif CARD_NAME not in names:
        yield client.CommitOperationAdd(path_in_repo=CARD_NAME, path_or_fileobj=card)


def _card(bundle: Bundle, name: HubName) -> bytes:
    """Its own where somebody has edited that; else written anew, for whoever reads it on the hub."""
    try:
        there = read_regular(bundle.path(CARD_NAME), MOST_CARD_BYTES)
    except FileNotFoundError:
        return render(bundle.manifest, name.repo)
    except OSError as error:
        raise HubError(f"cannot push {bundle.path(CARD_NAME)}: {error.strerror}") from None
    return render(bundle.manifest, name.repo) if is_own(there) else there


def _check_arrived(bundle: Bundle, name: HubName, commit: str) -> None:
    """A repository's .gitignore, for one, leaves files out without a word."""
    there = remote_files(name, commit, doing="push to")
    for path, entry in bundle.manifest.files.items():
        file = there.get(path)
        digest = getattr(getattr(file, "lfs", None), "sha256", entry.sha256)
        if file is None or file.size != entry.size or digest != entry.sha256:
            raise HubError(
                f"{path} did not arrive at {name} (commit {commit[:7]}): is it in the .gitignore there? "
                "Whoever fetches this commit is told"
            )
