"""Lines from a terminal: by prompt_toolkit where it is installed, else by Python's own `input()`.

Enters: keys. Leaves: a line, or several where they were pasted or typed as one; "" after Ctrl-C, None after Ctrl-D.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from pumice.cli.conversation.completion import completions
from pumice.cli.conversation.history import History

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from prompt_toolkit import PromptSession

GOES_ON = "... "
"""Before a line that goes on with the one above."""


class Reader(Protocol):
    """Reads what a person types behind a prompt."""

    def read(self, prompt: str) -> str | None:
        """What was typed; empty after Ctrl-C, None at the end of input."""


def make_reader(history: History) -> Reader:
    """The best reader for this terminal: the plain one where there is no other, or the terminal is a dumb one."""
    if _is_terminal() and os.environ.get("TERM", "dumb" if os.name != "nt" else "") not in (
        "dumb",
        "unknown",
    ):
        with contextlib.suppress(ImportError):
            return ToolkitReader(history)
    return PlainReader(history)


class PlainReader:
    """`input()`, with readline's editing, history and completion where Python has it.

    readline takes a paste of several lines for one line, if the terminal marks pastes, as nearly all do.
    """

    def __init__(self, history: History) -> None:
        self._history, self._offered = history, [""]
        with contextlib.suppress(ImportError):
            self._edit()

    def read(self, prompt: str) -> str | None:
        """One line, or a paste."""
        try:
            return input(prompt)
        except KeyboardInterrupt:
            print()
            return ""
        except EOFError:
            print()
            return None
        except UnicodeDecodeError:
            print("pumice: error: what was typed is not UTF-8 text", file=sys.stderr)
            return ""

    def _edit(self) -> None:
        import readline

        if "libedit" in (readline.__doc__ or ""):
            readline.parse_and_bind("bind ^I rl_complete")
        else:
            readline.parse_and_bind("tab: complete")
            readline.parse_and_bind(f"set enable-bracketed-paste {'off' if _is_dumb() else 'on'}")
        readline.set_completer_delims("")  # a word may have quoted blanks: completions are of whole lines
        readline.set_completer(self._complete)
        for entry in self._history.entries:
            if "\n" not in entry:
                readline.add_history(entry)

    def _complete(self, line: str, number: int) -> str | None:
        if number == 0:
            begin, offered = completions(line)
            self._offered = [line[:begin] + word for word in offered]
        return self._offered[number] if number < len(self._offered) else None


class ToolkitReader:
    """prompt_toolkit: pastes are one line, Alt-Enter begins a new one, Ctrl-R searches the history."""

    def __init__(self, history: History) -> None:
        self._session = _session(history)

    def read(self, prompt: str) -> str | None:
        """One question or command, which may have several lines."""
        try:
            return self._session.prompt(prompt, prompt_continuation=GOES_ON)
        except KeyboardInterrupt:
            return ""
        except EOFError:
            return None


def _is_dumb() -> bool:
    """Whether the terminal understands letters alone; on Windows nobody says."""
    return os.environ.get("TERM", "" if os.name == "nt" else "dumb") in ("dumb", "unknown")


def _is_terminal() -> bool:
    return bool(sys.stdin and sys.stdin.isatty() and sys.stdout and sys.stdout.isatty())


def _session(history: History) -> PromptSession[str]:
    """A prompt that Enter sends, without colours, and with completions below the line as a shell shows them."""
    from prompt_toolkit import PromptSession
    from prompt_toolkit.completion import Completer, Completion
    from prompt_toolkit.history import History as ToolkitHistory
    from prompt_toolkit.output import ColorDepth
    from prompt_toolkit.shortcuts import CompleteStyle

    class Completing(Completer):
        def get_completions(self, document: Any, complete_event: Any) -> Iterator[Completion]:  # noqa: ARG002
            line = document.text_before_cursor
            begin, offered = completions(line)
            for text in offered:
                yield Completion(text, start_position=begin - len(line), display=_last_part(text))

    class Remembered(ToolkitHistory):
        def load_history_strings(self) -> Iterable[str]:
            return reversed(history.entries)

        def store_string(self, string: str) -> None:
            """Nothing: whoever reads lines keeps them."""

    return PromptSession(
        multiline=True,
        key_bindings=_keys(),
        history=Remembered(),
        completer=Completing(),
        complete_while_typing=False,
        complete_style=CompleteStyle.READLINE_LIKE,
        color_depth=ColorDepth.DEPTH_1_BIT,
        output=_output(),
    )


def _keys() -> Any:
    """Enter sends, as does the line feed of what was typed before the prompt was there; Alt-Enter begins a line."""
    from prompt_toolkit.filters import is_searching
    from prompt_toolkit.key_binding import KeyBindings

    keys = KeyBindings()
    act: Callable[[Any], None] = lambda event: event.current_buffer.validate_and_handle()  # noqa: E731
    keys.add("enter", filter=~is_searching)(act)
    keys.add("c-j", filter=~is_searching)(act)
    keys.add("escape", "enter")(lambda event: event.current_buffer.insert_text("\n"))
    return keys


def _output() -> Any:
    """Where the prompt is drawn; the terminal is not asked where its cursor is, for not all answer."""
    if sys.platform == "win32":
        return None
    from prompt_toolkit.data_structures import Size
    from prompt_toolkit.output.vt100 import Vt100_Output

    def size() -> Size:
        columns, rows = shutil.get_terminal_size()
        return Size(rows=rows, columns=columns)

    return Vt100_Output(sys.stdout, size, term=os.environ.get("TERM"), enable_cpr=False)


def _last_part(path: str) -> str:
    """Of a path what tells it from its neighbours."""
    bare = path.rstrip("/ ")
    return bare.rpartition("/")[2] + path[len(bare) :].rstrip() if "/" in bare[1:] else path.rstrip()
