"""A command's failures: one line on stderr, and an exit code.

Enters: a command. Leaves: its exit code.
"""

from __future__ import annotations

import io
import logging
import os
import sys
from collections.abc import Callable

from pumice.cli.interrupts import insisting
from pumice.cli.main import INTERRUPTED
from pumice.cli.terminal import printable
from pumice.errors import PumiceError, UsageError


def guarded(command: Callable[[], int]) -> int:
    """Run a command of ours under whatever name: its exit code, and a failure told in one line."""
    _log_to_stderr()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal without the answer's letters shows the others
    with insisting() as interrupts:
        try:
            code = _told(command, lambda: interrupts.asked)
        except BaseException:
            if interrupts.asked:
                return INTERRUPTED
            raise
        return INTERRUPTED if interrupts.asked else code


def _told(command: Callable[[], int], interrupted: Callable[[], bool]) -> int:
    try:
        code = command()
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # whoever read our output has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if interrupted() or os.environ.get("PUMICE_DEBUG"):
            raise
        return _report(error)


def _report(error: Exception) -> int:
    """The failure in one line, and its exit code."""
    if isinstance(error, ModuleNotFoundError) and not (error.name or "").startswith("pumice"):
        error = _missing(error.name or "")
    if isinstance(error, PumiceError):
        message, code = str(error), error.exit_code
    else:
        message, code = f"{type(error).__name__}: {error} (PUMICE_DEBUG=1 shows more)", 1
    print("pumice: error:", printable(" ".join(message.split())), file=sys.stderr)
    return code


def _missing(module: str) -> UsageError:
    if module == "onnxruntime":
        return UsageError("there is no ONNX Runtime: pip install 'pumice[cpu]', or 'pumice[cuda]' for a GPU")
    return UsageError(f"exporting needs the export extra: pip install 'pumice[export]' (no {module})")


def tell(level: int) -> None:
    """Show what pumice's modules log from `level` on."""
    logging.getLogger("pumice").setLevel(level)


def _log_to_stderr() -> None:
    """What pumice's modules log, a line each; from warnings on, until a command's flags say otherwise."""
    logger = logging.getLogger("pumice")
    if not logger.handlers:
        handler = _Stderr()
        handler.setFormatter(logging.Formatter("pumice: %(message)s"))
        logger.addHandler(handler)
    tell(logging.WARNING)


class _Stderr(logging.Handler):
    """Writes to what is stderr at the time, which whoever embeds the command line may replace."""

    def emit(self, record: logging.LogRecord) -> None:
        print(printable(self.format(record)), file=sys.stderr)
