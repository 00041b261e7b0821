"""What begins with a slash: a table of commands.

Enters: a `Conversation`, and what stands behind a command's name. Leaves: what is to be said, or an answer's stream. A
new command is a row of `COMMANDS` and a function; `/help`, completion and docs/chat.md follow.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal, TypeAlias

from pumice.cli.conversation.attached import AttachedImage, shown
from pumice.cli.conversation.paths import as_path, is_file, typed_paths, words
from pumice.cli.conversation.settings import described, option_named, value_of
from pumice.cli.conversation.state import Conversation
from pumice.cli.conversation.transcript import load, save
from pumice.errors import UsageError
from pumice.generation.option_table import OPTIONS
from pumice.stream import TextStream

Said: TypeAlias = "str | AbstractContextManager[TextStream]"
"""Lines to show, or an answer to show as it comes."""


@dataclass(frozen=True, kw_only=True)
class Command:
    """One command: its names, its arguments, what it does, and how its arguments are completed."""

    names: tuple[str, ...]
    arguments: str = ""
    help: str
    run: Callable[[Conversation, str], Said]
    completes: Literal["", "paths", "options", "commands"] = ""


def _image(conversation: Conversation, argument: str) -> Said:
    paths = typed_paths(argument)
    if not paths:
        raise UsageError("/image wants a path: /image cat.png")
    images = conversation.look_at(paths)
    conversation.waiting.extend(images)
    return "\n".join(f"[image {image.described}]" for image in images)


def _images(conversation: Conversation, _: str) -> Said:
    waiting = [f"{number}  {image.described}" for number, image in enumerate(conversation.waiting, 1)]
    of_turns = [
        f"question {question}: {image.described if image else 'an image'}"
        for question, image in conversation.of_turns()
    ]
    lines = [*(["for the next question:", *waiting] if waiting else []), *of_turns]
    return "\n".join(lines) or "there are no images; /image PATH adds one"


def _drop(conversation: Conversation, argument: str) -> Said:
    waiting = conversation.waiting
    if not waiting:
        raise UsageError("no image waits for the next question; /undo takes back one that was asked about")
    if argument == "all":
        dropped, waiting[:] = list(waiting), []
    else:
        dropped = [waiting.pop(_number(argument, waiting) - 1)]
    return "\n".join(f"dropped {shown(image.name)}" for image in dropped)


def _number(argument: str, waiting: list[AttachedImage]) -> int:
    """Which image, 1 the first; the last where none is named."""
    if not argument:
        return len(waiting)
    if not (argument.isascii() and argument.isdigit() and 1 <= int(argument[:9]) <= len(waiting)):
        raise UsageError(f"/drop got {argument!r:.80}, expected a number from 1 to {len(waiting)}, or all")
    return int(argument)


def _system(conversation: Conversation, argument: str) -> Said:
    chat = conversation.chat
    if not argument:
        return shown(chat.system) if chat.system else "there is no system prompt; /system TEXT sets one"
    chat.system = None if argument in ('""', "''") else argument
    done = "the system prompt is set" if chat.system else "there is no system prompt any more"
    if not conversation.questions:
        return done
    return f"{done}, from the beginning of the conversation: what was said stays, and is prefilled again under it"


def _set(conversation: Conversation, argument: str) -> Said:
    name, _, value = argument.partition(" ")
    if name == "parameter":  # as ollama has it
        name, _, value = value.strip().partition(" ")
    if name == "system":
        return _system(conversation, value.strip())
    chat = conversation.chat
    if not name:
        options = chat.pipeline.options(chat.options)
        return "\n".join(described(option, options, conversation.given) for option in OPTIONS)
    option, value = option_named(name), value.strip()
    if value:
        conversation.set(option.name, value_of(option, value))
    line = described(option, chat.pipeline.options(chat.options), conversation.given)
    return line if value else f"{line}\n{option.help.replace('`', '')}"


def _save(conversation: Conversation, argument: str, *, overwrite: bool = False) -> Said:
    path = _one_path(argument, "/save")
    save(conversation, path, overwrite=overwrite)
    return f"saved to {shown(path)}: {_count(conversation)}"


def _load(conversation: Conversation, argument: str) -> Said:
    path, before = _one_path(argument, "/load"), conversation.questions
    load(conversation, path)
    replaced = f", in place of {before}" if before else ""
    settings = ", ".join(f"{name} {value}" for name, value in conversation.given.items())
    return f"loaded {shown(path)}: {_count(conversation)}{replaced}" + (
        f"; set: {shown(settings)}" if settings else ""
    )


def _count(conversation: Conversation) -> str:
    questions = conversation.questions
    return f"{questions} question{'s' * (questions != 1)}"


def _one_path(argument: str, command: str) -> str:
    whole = as_path(argument)
    if is_file(whole):
        return whole
    found = words(argument)
    if len(found) != 1:
        wrong = "has blanks: put quotes around it" if found else "is missing"
        raise UsageError(f"the file of {command} {wrong}")
    return as_path(found[0].text)


def _retry(conversation: Conversation, _: str) -> Said:
    return conversation.retried()


def _undo(conversation: Conversation, _: str) -> Said:
    conversation.chat.rewind(-1)
    return ""


def _reset(conversation: Conversation, _: str) -> Said:
    conversation.reset()
    return ""


def _stats(conversation: Conversation, _: str) -> Said:
    if not conversation.figures.answers:
        return "there is no answer yet"
    session = f"session, {conversation.figures.answers} answers" if conversation.figures.answers > 1 else ""
    lines = ["last answer", *(f"  {line}" for line in conversation.last.lines)]
    return "\n".join(
        [*lines, session, *(f"  {line}" for line in conversation.figures.lines)] if session else lines
    )


def _help(_: Conversation, argument: str) -> Said:
    if argument:
        name = argument.lstrip("/")
        if name not in BY_NAME:
            raise unknown_command(f"/{name}")
        return _row(BY_NAME[name])
    return "\n".join(_row(command) for command in COMMANDS)


def _row(command: Command) -> str:
    names = " ".join(f"/{name}" for name in command.names)
    return f"{f'{names} {command.arguments}'.strip()}\t{command.help}"


def _quit(conversation: Conversation, _: str) -> Said:
    conversation.ended = True
    return ""


COMMANDS: tuple[Command, ...] = (
    Command(
        names=("image",), arguments="PATH…", completes="paths", run=_image,
        help="add images to the next question; a dropped file does, too",
    ),
    Command(names=("images",), run=_images, help="images that wait, and those of the conversation"),
    Command(names=("drop",), arguments="[N|all]", run=_drop, help="take back an image that waits; the last"),
    Command(
        names=("system",), arguments="[TEXT]", run=_system,
        help='set the system prompt, from the beginning; "" removes it, nothing shows it',
    ),
    Command(
        names=("set",), arguments="[NAME [VALUE]]", completes="options", run=_set,
        help="set an option of generation; default takes it back, nothing shows all",
    ),
    Command(
        names=("save",), arguments="FILE", completes="paths", run=_save,
        help="write the conversation to a file that does not exist yet",
    ),
    Command(
        names=("save!",), arguments="FILE", completes="paths", run=lambda c, a: _save(c, a, overwrite=True),
        help="the same, over whatever is there",
    ),
    Command(
        names=("load",), arguments="FILE", completes="paths", run=_load,
        help="take the conversation of a file in place of this one",
    ),
    Command(names=("retry", "again"), run=_retry, help="answer the last question anew"),
    Command(names=("undo",), run=_undo, help="forget the last question and its answer"),
    Command(names=("reset", "clear"), run=_reset, help="begin anew; system prompt and settings stay"),
    Command(names=("stats",), run=_stats, help="tokens and seconds, of the last answer and of all"),
    Command(names=("help", "?"), arguments="[COMMAND]", completes="commands", run=_help, help="this"),
    Command(
        names=("quit", "exit", "bye"), run=_quit,
        help="leave (so does Ctrl-D); Ctrl-C stops an answer",
    ),
)  # fmt: skip

BY_NAME = {name: command for command in COMMANDS for name in command.names}


def unknown_command(word: str) -> UsageError:
    """There is no command of this name, which begins with a slash."""
    close = difflib.get_close_matches(word[1:], BY_NAME, n=1)
    hint = f"did you mean /{close[0]}? " if close else ""
    return UsageError(f"no such command: {word:.80}; {hint}/help lists them")
