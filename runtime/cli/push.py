"""`pumice push`: a bundle goes to the Hugging Face hub. docs/hub.md."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from pumice.cli import vocabulary
from pumice.cli.located import tell
from pumice.cli.terminal import as_json, printable

if TYPE_CHECKING:
    from pumice.hub.name import HubName


def add_push_arguments(parser: argparse.ArgumentParser) -> None:
    """`pumice push BUNDLE ORG/NAME [--private] [--revision NAME] [--commit-message TEXT] [--json]`."""
    vocabulary.add_bundle(parser, "folder that `pumice export` wrote")
    parser.add_argument("target", metavar="org/name", help="repository on the hub, made where there is none")
    vocabulary.add_private(parser)
    vocabulary.add_revision(parser, "branch to push to, made where there is none (main)")
    parser.add_argument("--commit-message", metavar="TEXT", help="what the commit is called")
    vocabulary.add_json(parser)
    vocabulary.add_verbosity(parser)


def run_push(args: argparse.Namespace) -> int:
    """Push, and print where it is now."""
    from pumice.hub.target import target_name

    name = target_name(args.target, args.revision)
    pushed_bundle(
        Path(args.bundle),
        name,
        private=args.private,
        message=args.commit_message,
        quiet=args.quiet,
        json=args.json,
    )
    return 0


def checked_target(text: str, *, private: bool) -> HubName:
    """Where an export is to be pushed to, looked at before hours of work. Raises as `pumice.hub.target`."""
    from pumice.hub.target import check_target, target_name

    name = target_name(text)
    check_target(name, private=private)
    return name


def pushed_bundle(
    bundle: Path,
    name: HubName,
    *,
    private: bool,
    message: str | None = None,
    quiet: bool = False,
    json: bool = False,
) -> None:
    """Check the bundle, push it, and say where it is.

    Raises:
        BundleError: it is none, or was changed; `HubError` where it cannot be pushed.
    """
    from pumice.bundle.folder import open_bundle
    from pumice.hub.push import push

    pushed = push(open_bundle(bundle), name, private=private, message=message, tell=None if quiet else tell)
    if json:
        print(as_json({"url": pushed.url, "commit": pushed.commit, "bytes": pushed.nbytes}))
    elif not quiet:
        print(
            printable(
                f"{pushed.url}: {pushed.nbytes / 1e6:,.1f} MB; pumice run {name.repo}@{pushed.commit[:7]} …"
            )
        )
