"""The child process in which chat templates are rendered: `python -I -S template_worker.py MINIJINJA_FOLDER`.

Enters: one JSON request a line, `{"template", "variables"}`. Leaves: one JSON answer a line, `{"text"}` or `{"error"}`.

A chat template is a program from whoever published the checkpoint. minijinja gives it no Python objects and counts its
steps, but a few dozen steps that double a string are enough to use up a machine's memory, and Rust ends the process
when an allocation fails. So the process is this one, with little memory to use and nothing to lose.
`chat_template.py` holds the other end. This file is run by its path and imports nothing of pumice.
"""

import json
import signal
import sys
from datetime import datetime
from typing import Any

MEMORY_BYTES = 160 * 2**20
"""Address space of the process, of which Python and minijinja take about 40 MiB."""

FUEL = 500_000
"""Steps of a rendering; a turn of a conversation takes about a hundred."""

COMPUTING_S = 0.06
"""Processor time of a rendering; usual ones take a thousandth of a second."""

BYTES_PER_S = 10_000_000
"""Long messages get more time."""

MAX_TEXT = 16 * 2**20
"""Characters of a rendered prompt."""


def main() -> None:
    """Answer requests until the other end closes."""
    _limit_memory()
    sys.path.append(sys.argv[1])
    environment = _environment()
    for line in sys.stdin.buffer:
        request = json.loads(line)
        _limit_time(COMPUTING_S + len(line) / BYTES_PER_S)
        answer = _answer(environment, request)
        _limit_time(0)
        sys.stdout.buffer.write(json.dumps(answer, ensure_ascii=False).encode() + b"\n")
        sys.stdout.buffer.flush()


def _limit_memory() -> None:
    try:
        import resource
    except ImportError:  # Windows has no such limit; time is still limited by the other end
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))


def _limit_time(seconds: float) -> None:
    """End the process after so much computing; 0 lifts the limit."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_PROF, seconds)


def _environment() -> Any:
    """Jinja as transformers sets it up: `trim_blocks`, `lstrip_blocks`, and its own `tojson`, `raise_exception`,
    `strftime_now`."""
    import minijinja

    environment = minijinja.Environment(trim_blocks=True, lstrip_blocks=True, fuel=FUEL, debug=False)
    environment.add_filter("tojson", _tojson)
    environment.add_global("raise_exception", _raise_exception)
    environment.add_global("strftime_now", lambda form: datetime.now().strftime(form))
    return environment


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


class _RefusalError(Exception):
    """What a template says with `raise_exception`."""


def _raise_exception(message: str) -> None:
    raise _RefusalError(message)


def _answer(environment: Any, request: dict[str, Any]) -> dict[str, str]:
    try:
        text = environment.render_str(request["template"], "chat_template", **request["variables"])
    except MemoryError:
        raise
    except _RefusalError as error:
        return {"error": f"the chat template refuses these messages: {_one_line(error)}"}
    except BaseException as error:  # minijinja, and Python functions called by it, may raise anything
        return {"error": f"the chat template cannot be rendered: {_one_line(error)}"}
    if len(text) > MAX_TEXT:
        return {
            "error": f"the chat template renders {len(text):,} characters, at most {MAX_TEXT:,} are accepted"
        }
    return {"text": text}


def _one_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__


if __name__ == "__main__":
    main()
