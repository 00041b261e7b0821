"""`optimum-cli export pumice CHECKPOINT BUNDLE …`: `pumice export` as a command of optimum's. Cheap to import.

Enters: the arguments that optimum's parser reads. Leaves: a bundle, or a failure in one line with pumice's exit code.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from typing import Any, NoReturn

from optimum.commands.base import BaseOptimumCLICommand, CommandInfo

from pumice.cli.commands import tell_by
from pumice.cli.export import add_export_arguments, run_export
from pumice.cli.failures import guarded
from pumice.errors import UsageError


class ExportPumice(BaseOptimumCLICommand):
    """The command, as optimum wants it."""

    COMMAND = CommandInfo(
        name="pumice",
        help="Export LLaVA checkpoints to a bundle of ONNX graphs that runs with NumPy and ONNX Runtime alone.",
    )

    @staticmethod
    def parse_args(parser: argparse.ArgumentParser) -> None:
        """Give optimum's parser the options of `pumice export`, and its failures one line."""
        add_export_arguments(parser)
        parse = parser.parse_known_args
        # optimum makes an ordinary parser, which tells its usage first and leaves unknown options to its parent.
        vars(parser).update(
            error=partial(_refuse, parser.prog), parse_known_args=partial(_parse, parser, parse)
        )

    def run(self) -> NoReturn:
        """Export, and exit."""

        def export() -> int:
            tell_by(self.args)
            return run_export(self.args)

        sys.exit(guarded(export))


def _parse(
    parser: argparse.ArgumentParser, parse: Any, args: Sequence[str] | None = None, namespace: Any = None
) -> Any:
    found, unknown = parse(args, namespace)
    if unknown:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    return found, unknown


def _refuse(prog: str, message: str) -> NoReturn:
    def fail() -> int:
        raise UsageError(f"{message}; see {prog} --help")

    sys.exit(guarded(fail))
