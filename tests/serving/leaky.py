"""`pumice` whose server keeps 64 KiB of each request for ever: what the soak must see. `python -m tests.serving.leaky serve …`"""

from __future__ import annotations

import sys
from typing import Any

from pumice.cli.main import main
from pumice.serve.front import Front

KEPT: list[bytearray] = []


def plant() -> None:
    """From here on each request leaves something behind."""
    real = Front.__call__

    async def leaking(self: Front, *arguments: Any) -> None:
        KEPT.append(bytearray(b"x" * 2**16))
        await real(self, *arguments)

    Front.__call__ = leaking  # type: ignore[method-assign]


if __name__ == "__main__":
    plant()
    sys.exit(main())
