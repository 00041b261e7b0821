"""Messages become a prompt's text, as transformers' `apply_chat_template(…, add_generation_prompt=True)` renders it.

Enters: a checkpoint's Jinja template, and messages. Leaves: text, before any tokenisation.
Templates are foreign code: they run in a child process of little memory (`template_worker.py`), with a limit on
steps and time.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import subprocess
import sys
import threading
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pumice.errors import PromptError
from pumice.prompt.template_source import rewritten, with_line_feeds

TIME_LIMIT_S = 5.0
"""For a whole rendering, on a busy machine; the process also ends itself after a twentieth of a second of computing."""

MAX_TEMPLATE = 1_000_000
"""Characters of a template; the longest published ones have about 20,000."""


class TemplateRefusalError(PromptError):
    """The template refuses the messages, or cannot be rendered: it would do so again."""


class ChatTemplate:
    """A chat template and the process that renders it; safe to use from several threads.

    `variables` are the special tokens that templates refer to (`bos_token`, `eos_token`, …).
    """

    def __init__(self, source: str, variables: Mapping[str, str]) -> None:
        if len(source) > MAX_TEMPLATE:
            raise PromptError(
                f"the chat template has {len(source):,} characters, at most {MAX_TEMPLATE:,} are accepted"
            )
        self.source = with_line_feeds(source)
        self._template = rewritten(source)
        self._variables = dict(variables)
        self._lock = threading.Lock()
        self._worker: _Worker | None = None

    def start(self) -> None:
        """Start the rendering process, so that the first rendering need not wait for it.

        Where it cannot be started, that rendering says so: raw prompts need none.
        """
        with self._lock, contextlib.suppress(PromptError):
            self._ready_worker()

    def render(self, messages: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool = True) -> str:
        """The prompt of a conversation.

        Raises:
            PromptError: the template refuses the messages, does not parse, or takes too long or too much memory; or
                there is no process left to render it in.
        """
        variables = {
            "messages": list(messages),
            "add_generation_prompt": add_generation_prompt,
            "tools": None,
            "documents": None,
            **self._variables,
        }
        request = json.dumps({"template": self._template, "variables": variables}, ensure_ascii=False)
        with self._lock:
            answer = self._ready_worker().ask(request)
        if answer is None:
            raise PromptError(
                "the chat template takes too much memory or time; pass a prompt of your own with raw=True"
            )
        if "error" in answer:
            raise TemplateRefusalError(answer["error"])
        return answer["text"]

    def _ready_worker(self) -> _Worker:
        if self._worker is None or not self._worker.usable:
            self._worker = _Worker()
        return self._worker


class _Worker:
    """The rendering process. It ends when its standard input closes, so it never outlives this one."""

    def __init__(self) -> None:
        minijinja = importlib.util.find_spec("minijinja")
        assert minijinja is not None
        assert minijinja.origin is not None
        here = Path(__file__)
        scripts = [str(here.with_name(name)) for name in ("template_worker.py", "jinja_functions.py")]
        try:
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-I",
                    "-S",
                    scripts[0],
                    str(Path(minijinja.origin).parent.parent),
                    scripts[1],
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C in a terminal is not meant for it
            )
        except OSError as error:  # no process left, no memory for one, no file descriptors
            raise PromptError(
                f"the process that renders chat templates cannot be started ({error.strerror or error}): end other "
                "processes or raise the limit on them (ulimit -u), or pass a prompt of your own with raw=True"
            ) from None
        self._owner = os.getpid()
        self._finalizer = weakref.finalize(self, _stop, self._process, self._owner)

    @property
    def usable(self) -> bool:
        """Alive, and started by this process (not by the one that this was forked from)."""
        return self._owner == os.getpid() and self._finalizer.alive

    def ask(self, request: str) -> dict[str, str] | None:
        """The answer to a request, or None if the process gave up; then it is gone."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        timer = threading.Timer(TIME_LIMIT_S, self._process.kill)
        timer.start()
        try:
            self._process.stdin.write(request.encode() + b"\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        except BrokenPipeError:
            answer = b""
        except BaseException:  # an interrupt: whatever it was to answer must not answer the next request
            self._finalizer()
            raise
        finally:
            timer.cancel()
        if not answer.endswith(b"\n"):
            self._finalizer()
            return None
        decoded: dict[str, str] = json.loads(answer)
        return decoded


def _stop(process: subprocess.Popen[bytes], owner: int) -> None:
    if os.getpid() != owner:  # in a fork: the process belongs to the parent
        return
    process.kill()
    for stream in (process.stdin, process.stdout):
        with contextlib.suppress(OSError):
            assert stream is not None
            stream.close()
    process.wait()
