"""The interactive conversation of `pumice run`: read, do, show, again.

Enters: a `Chat`, and keys. Leaves: answers. Ctrl-C stops an answer, Ctrl-D leaves. Failures are shown in a line, and
the conversation goes on as before.
"""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from pumice.cli.conversation.commands import BY_NAME, Said, unknown_command
from pumice.cli.conversation.history import History, history_path
from pumice.cli.conversation.paths import as_path, dropped_images, looks_like_path, words
from pumice.cli.conversation.readers import GOES_ON, Reader, make_reader
from pumice.cli.conversation.state import Conversation
from pumice.cli.conversation.typed import Typed, read_typed
from pumice.cli.conversation.view import complain, say, show
from pumice.errors import ImageError, PumiceError

if TYPE_CHECKING:
    from pumice.chat import Chat
    from pumice.stream import TextStream


def run_chat(chat: Chat, images: list[str], *, history: bool = True) -> int:
    """Talk until the person leaves; `images` belong to the first question.

    Raises:
        ImageError: one of `images` cannot be read.
    """
    conversation = Conversation(chat)
    conversation.waiting.extend(conversation.look_at(images))
    kept = History(history_path() if history else None)
    reader = make_reader(kept)
    print("Ask away; /help lists the commands.", file=sys.stderr)
    while not conversation.ended:
        typed = _read(conversation, reader)
        if typed is None:
            break
        kept.add(f'"""{typed.text}"""' if typed.verbatim else typed.text)
        try:
            _do(conversation, typed)
        except PumiceError as error:
            complain(error)
        except KeyboardInterrupt:
            print()
    return 0


def _read(conversation: Conversation, reader: Reader) -> Typed | None:
    waiting = len(conversation.waiting)
    prompt = f"[{waiting} image{'s' * (waiting > 1)}] > " if waiting else "> "
    return read_typed(lambda goes_on: reader.read(GOES_ON if goes_on else prompt))


def _do(conversation: Conversation, typed: Typed) -> None:
    if typed.verbatim:
        _show(conversation.asked(typed.text))
        return
    if not typed.text:
        return
    command, _, argument = typed.text.partition(" ")
    if command[1:] in BY_NAME and typed.text.startswith("/"):
        _say(BY_NAME[command[1:]].run(conversation, argument.strip()))
    else:
        _ask(conversation, typed.text)


def _ask(conversation: Conversation, text: str) -> None:
    """A question, without the images that were dropped into it; images alone wait for one."""
    dropped = dropped_images(text)
    if text.startswith("/") and not dropped.first:
        word = words(text)[0].text
        if looks_like_path(word):
            raise ImageError(f"there is no image {as_path(word)!r}: nothing was asked")
        raise unknown_command(word)
    images = conversation.look_at(dropped.paths)
    for image in images:
        say(f"[image {image.described}]")
    if dropped.question:
        _show(conversation.asked(dropped.question, images))
    else:
        conversation.waiting.extend(images)


def _say(said: Said) -> None:
    if isinstance(said, AbstractContextManager):
        _show(said)
    elif said:
        say(said)


def _show(answer: AbstractContextManager[TextStream]) -> None:
    with answer as stream:
        show(stream)
