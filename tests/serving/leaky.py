"""`pumice` whose server keeps 64 KiB of each request for ever, which the soak must see."""

from __future__ import annotations

import sys

from starlette.types import Receive, Scope, Send

from pumice.cli.main import main
from pumice.serve.front import Front

KEPT: list[bytearray] = []


def plant() -> None:
    """From here on each request leaves something behind."""
    real = Front.__call__

    # uvicorn looks at the signature.
    async def leaking(self: Front, scope: Scope, receive: Receive, send: Send) -> None:
        KEPT.append(bytearray(b"x" * 2**16))
        await real(self, scope, receive, send)

    Front.__call__ = leaking  # type: ignore[method-assign]


if __name__ == "__main__":
    plant()
    sys.exit(main())
