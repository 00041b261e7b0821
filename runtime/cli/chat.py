"""The interactive conversation of `pumice run`.

Ctrl-C stops an answer, Ctrl-D leaves. Failures are shown in a line, and the conversation goes on as before.
"""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING

from pumice.cli.terminal import print_stream
from pumice.errors import PumiceError

if TYPE_CHECKING:
    from pumice.chat import Chat
    from pumice.stream import TextStream

HELP = """\
/image PATH   add an image to the next question
/again        answer the last question anew
/undo         forget the last question and its answer
/reset        begin anew
/help         this
/quit         leave (so does Ctrl-D); Ctrl-C stops an answer"""


def run_chat(chat: Chat, images: list[str]) -> int:
    """Talk until the person leaves; `images` belong to the first question."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  line editing and history for input()
    print("Ask away; /help lists the commands.", file=sys.stderr)
    prepared = list(images)
    while True:
        line = _read_line(len(prepared))
        if line is None or line == "/quit":
            return 0
        try:
            if line.startswith("/"):
                _obey(line, chat, prepared)
            elif line:
                _show(chat.stream(line, prepared))
                prepared.clear()
        except PumiceError as error:
            print("pumice: error:", error, file=sys.stderr)


def _read_line(images: int) -> str | None:
    """What was typed; empty after Ctrl-C, None at the end of input."""
    try:
        return input(f"[{images} image{'s' * (images > 1)}] > " if images else "> ").strip()
    except KeyboardInterrupt:
        print()
        return ""
    except EOFError:
        print()
        return None


def _obey(line: str, chat: Chat, images: list[str]) -> None:
    command, _, argument = line.partition(" ")
    if command == "/image" and argument.strip():
        images.append(argument.strip())
    elif command == "/again":
        _show(chat.stream_again())
    elif command == "/undo":
        chat.rewind(-1)
    elif command == "/reset":
        chat.reset()
        images.clear()
    elif command == "/help":
        print(HELP)
    else:
        print(f"pumice: no such command: {line}; /help lists them", file=sys.stderr)


def _show(stream: TextStream) -> None:
    with stream:
        try:
            print_stream(stream)
        except KeyboardInterrupt:
            print()
