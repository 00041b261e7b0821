"""A bundle that a command was given, found before anything else is done.

Enters: its arguments. Leaves: the bundle's folder; of one on the hub, fetched, and its size told before.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from pumice.cli.terminal import printable


def located(
    args: argparse.Namespace, *, whole: bool = True, check: Callable[[Path], object] = lambda _: None
) -> Path:
    """The folder of `args.bundle`; nothing but the manifest of one on the hub, unless it is wanted `whole`.

    `check` is called before gigabytes are fetched.

    Raises:
        BundleError, UsageError: as `pumice.load`.
    """
    from pumice.hub.location import locate

    return locate(args.bundle, args.revision, whole=whole, check=check, tell=None if args.quiet else tell)


def tell(line: str) -> None:
    """A line on standard error."""
    print(f"pumice: {printable(line)}", file=sys.stderr)
