"""`pumice serve`: a bundle behind HTTP. docs/serve.md has the routes and settings."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import warnings
from typing import Any

from pumice.cli import vocabulary
from pumice.cli.located import tell
from pumice.errors import UsageError


def add_serve_arguments(parser: argparse.ArgumentParser) -> None:
    """`pumice serve BUNDLE`: a flag for each of `Settings`, and `--config`."""
    from pumice.serve.settings import FLAGS

    vocabulary.add_bundle(parser, nargs="?")
    parser.add_argument("others", nargs="*", metavar="bundle", help="more bundles, or folders of bundles")
    for each in FLAGS:
        if each.name == "threads":
            vocabulary.add_threads(parser)
        elif each.name == "low_memory":
            vocabulary.add_low_memory(parser)
        elif each.name == "context_length":
            vocabulary.add_context_length(parser)
        elif each.name == "slots":
            vocabulary.add_slots(parser, f"answers at a time ({each.default})", default=None)
        elif each.name == "device":
            vocabulary.add_device(parser, "where to compute (auto)", default=None)
        else:
            _add(parser, each)
    parser.add_argument("--config", metavar="FILE", help="TOML file of settings, each as its flag is named")
    vocabulary.add_verbosity(parser)


def _add(parser: argparse.ArgumentParser, each: Any) -> None:
    flag, help = "--" + each.name.replace("_", "-"), each.metadata["help"].replace("%", "%%")
    if each.type == "bool":
        parser.add_argument(flag, action="store_true", help=help)
        return
    shown = "" if each.default in (None, ()) else f" ({_number(each.default)})"
    how: dict[str, Any] = {"action": "append", "default": []} if each.type == "tuple[str, ...]" else {}
    parser.add_argument(flag, metavar=each.metadata["metavar"], help=help + shown, **how)


def _number(value: Any) -> str:
    return (
        f"{value:,}" if isinstance(value, int) else f"{value:g}" if isinstance(value, float) else str(value)
    )


def run_serve(args: argparse.Namespace) -> int:
    """Serve until SIGTERM or Ctrl-C."""
    from pumice.serve.settings import gather

    given = {name: value for name, value in vars(args).items() if name not in _NO_SETTINGS}
    settings = gather(given, os.environ, args.config)
    try:
        from pumice.serve.lifecycle import serve
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("pumice"):
            raise
        raise UsageError(
            f"serving needs the serve extra: pip install 'pumice[serve]' (no {error.name})"
        ) from None
    names = _names(settings)
    # Decoders warn of what a request's images are like, each time in other words: refusals tell it, the log does not.
    warnings.filterwarnings("ignore", module="PIL")
    if not args.quiet:
        _log_requests()

    def announce(address: str) -> None:
        print(f"pumice: serving {', '.join(names)} at {address}", file=sys.stderr, flush=True)

    from pumice.cli.interrupts import handled_inside

    with handled_inside():
        serve(settings, announced=announce)
    return 0


_NO_SETTINGS = {"command", "config", "quiet", "verbose"}


def _names(settings: Any) -> list[str]:
    """The models'. What is wrong for certain is told before anything listens; of several bundles, by a line each."""
    from pumice.cli.checks import check_machine, check_options
    from pumice.serve.catalogue import read_catalogue

    machine = {"device": settings.device, "threads": settings.threads}
    check_machine(**machine)
    offers = read_catalogue(settings).offers
    if len(offers) == 1:
        check_options(offers[0].settings.bundle, {}, context_length=settings.context_length, **machine)
    for offer in offers:
        if offer.failure is not None:
            tell(f"{offer.names[0]} cannot be opened: {offer.failure}")
    return [offer.names[0] for offer in offers]


def _log_requests() -> None:
    """A line a request to standard error, as it is."""
    logger = logging.getLogger("pumice.serve")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    if not logger.handlers:
        logger.addHandler(handler)
