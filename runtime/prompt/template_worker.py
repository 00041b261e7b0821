"""The child process in which chat templates are rendered: `python -I -S template_worker.py MINIJINJA_FOLDER FUNCTIONS`.

Enters: one JSON request a line, `{"template", "variables"}`. Leaves: one JSON answer a line, `{"text"}` or `{"error"}`.

A chat template is a program from whoever published the checkpoint. minijinja gives it no Python objects and counts its
steps, but a few dozen steps that double a string are enough to use up a machine's memory, and Rust ends the process
when an allocation fails. So the process is this one, with little memory to use and nothing to lose.
`template.py` holds the other end. This file and `jinja_functions.py` are run by their paths and import nothing of
pumice.
"""

import json
import runpy
import signal
import sys
from typing import Any

MEMORY_BYTES = 160 * 2**20
"""Address space of the process, of which Python and minijinja take about 40 MiB."""

FUEL = 500_000
"""Steps of a rendering; a turn of a conversation takes about a hundred."""

FUEL_OF_A_BYTE = 20
"""Steps for each byte of a request more: the shortest turn has 50 bytes."""

COMPUTING_S = 0.06
"""Processor time of a rendering; usual ones take a thousandth of a second."""

BYTES_PER_S = 1_000_000
"""Long messages get more time."""

MAX_TEXT = 16 * 2**20
"""Characters of a rendered prompt."""


def main() -> None:
    """Answer requests until the other end closes."""
    _limit_memory()
    sys.path.append(sys.argv[1])
    jinja = runpy.run_path(sys.argv[2])
    environment, refusal = _environment(jinja), jinja["RefusalError"]
    for line in sys.stdin.buffer:
        request = json.loads(line)
        environment.fuel = FUEL + FUEL_OF_A_BYTE * len(line)
        _limit_time(COMPUTING_S + len(line) / BYTES_PER_S)
        answer = _answer(environment, request, refusal)
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


def _environment(jinja: dict[str, Any]) -> Any:
    """Jinja as transformers sets it up: `trim_blocks`, `lstrip_blocks`, and its own filters and functions."""
    import minijinja

    environment = minijinja.Environment(trim_blocks=True, lstrip_blocks=True, debug=False)
    for name, function in jinja["FUNCTIONS"].items():
        environment.add_global(name, function)
    for name, function in jinja["FILTERS"].items():
        environment.add_filter(name, function)
    for name, function in jinja["TESTS"].items():
        environment.add_test(name, function)
    return environment


def _answer(environment: Any, request: dict[str, Any], refusal: type[Exception]) -> dict[str, str]:
    try:
        text = environment.render_str(request["template"], "chat_template", **request["variables"])
    except MemoryError:
        raise
    except refusal as error:
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
