"""`pumice run`: one question, its answer streamed; or, without one, a conversation."""

from __future__ import annotations

import argparse
import collections
import dataclasses
import json
import sys

from pumice.cli.flags import add_generation_arguments, generation_options
from pumice.cli.terminal import print_stream
from pumice.errors import UsageError
from pumice.machine.devices import DEVICES


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """`pumice run BUNDLE [-i IMAGE]... [PROMPT]`."""
    parser.add_argument("bundle", help="folder that `pumice export` wrote")
    parser.add_argument(
        "-i", "--image", action="append", default=[], help="image of the question; repeatable"
    )
    parser.add_argument(
        "prompt",
        nargs="?",
        help="the question; - reads it from standard input; left out, standard input if it is piped, else a chat",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the text")
    parser.add_argument("--device", choices=DEVICES, default="auto", help="where to compute (%(default)s)")
    parser.add_argument("--threads", type=int, metavar="N", help="threads to compute with (as many as CPUs)")
    parser.add_argument(
        "--raw",
        action="store_true",
        help="the prompt as it stands: no chat template, special tokens are special",
    )
    parser.add_argument(
        "--no-history", action="store_true", help="keep nothing of what is typed in a chat for later ones"
    )
    add_generation_arguments(parser)


def run_run(args: argparse.Namespace) -> int:
    """Ask, and print the answer."""
    prompt = _prompt(args.prompt)
    if prompt is None and (args.json or args.raw):
        raise UsageError(f"--{'json' if args.json else 'raw'} needs a prompt")
    options = generation_options(args)
    import pumice

    model = pumice.load(args.bundle, device=args.device, threads=args.threads)
    if prompt is None:
        from pumice.cli.chat import run_chat

        return run_chat(model.chat(**options), args.image, history=not args.no_history)
    stream = model.stream(prompt, args.image, raw=args.raw, **options)
    if args.json:
        collections.deque(stream, maxlen=0)
        print(json.dumps(dataclasses.asdict(stream.result), ensure_ascii=False))
    else:
        print_stream(stream)
    return 0


def _prompt(given: str | None) -> str | None:
    """The prompt as given or piped; None where a person sits at the terminal."""
    if given is not None and given != "-":
        return given
    if sys.stdin is None:
        raise UsageError("there is no standard input: give the prompt as an argument")
    if given is None and sys.stdin.isatty():
        return None
    try:
        text = sys.stdin.buffer.read().decode().removesuffix("\n")
    except UnicodeDecodeError:
        raise UsageError("the prompt on standard input is not UTF-8 text") from None
    if not text:
        raise UsageError("standard input has no prompt: pipe one in, or give it as an argument")
    return text
