"""`pumice run`: one question, its answer streamed; or, without one, a conversation."""

from __future__ import annotations

import argparse
import collections
import dataclasses
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pumice.cli import vocabulary
from pumice.cli.flags import add_generation_arguments, generation_options
from pumice.cli.terminal import as_json, print_stream
from pumice.cli.waiting import waiting
from pumice.errors import UsageError

if TYPE_CHECKING:
    from PIL import Image

    from pumice.images.videos import Video
    from pumice.model import Model
    from pumice.stream import TextStream


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """`pumice run BUNDLE [-i FILE]... [PROMPT]`."""
    vocabulary.add_bundle(parser)
    vocabulary.add_revision(parser)
    parser.add_argument(
        "prompt",
        nargs="?",
        help="the question, behind -- if it begins with -; - alone reads it from standard input; left out, standard "
        "input if it is piped, else a chat",
    )
    vocabulary.add_prompt(parser, "the question, in another place", dest="asked")
    vocabulary.add_image(parser, "image of the question; repeatable", action="append", default=[])
    vocabulary.add_video(parser)
    vocabulary.add_system(parser)
    vocabulary.add_raw(parser)
    vocabulary.add_context_length(parser)
    vocabulary.add_device(parser)
    vocabulary.add_threads(parser)
    vocabulary.add_low_memory(parser)
    vocabulary.add_json(parser, "print the answer as a JSON object, several answers as a list of them")
    parser.add_argument(
        "--no-history", action="store_true", help="keep nothing of what is typed in a chat for later ones"
    )
    vocabulary.add_verbosity(parser)
    add_generation_arguments(parser)


def run_run(args: argparse.Namespace) -> int:
    """Ask, and print the answer."""
    prompt = _prompt(args)
    _check_together(args, prompt)
    options = generation_options(args)
    local = os.path.isdir(args.bundle)  # noqa: PTH112  takes any name; a bundle on the hub has lines of its own
    with waiting(f"loading {args.bundle}", quiet=args.quiet or not local):
        model, images, videos = _loaded(args, options)
    if prompt is None:
        from pumice.cli.chat import run_chat
        from pumice.cli.interrupts import handled_inside

        with handled_inside():
            return run_chat(
                model.chat(system=args.system, **options), args.image, history=not args.no_history
            )
    if args.system is None:
        stream = model.stream(prompt, images, videos=videos, raw=args.raw, **options)
    else:
        stream = model.chat(system=args.system, **options).stream(prompt, images, videos=videos)
    _show(stream, several=(args.num_return_sequences or 1) > 1, json=args.json)
    return 0


def _loaded(
    args: argparse.Namespace, options: dict[str, Any]
) -> tuple[Model, list[Image.Image], list[Video]]:
    """The model, and what is to be looked at, checked before the model is loaded."""
    from pumice.cli.checks import check_options, opened_images, opened_videos
    from pumice.cli.located import located

    images: list[Image.Image] = []
    videos: list[Video] = []

    def check(folder: Path) -> None:
        check_options(
            folder, options, context_length=args.context_length, device=args.device, threads=args.threads
        )
        images.extend(opened_images(args.image))
        videos.extend(opened_videos(folder, args.video, args.frames))

    folder = located(args, check=check)
    import pumice

    model = pumice.load(
        folder,
        device=args.device,
        threads=args.threads,
        low_memory=args.low_memory,
        context_length=args.context_length,
    )
    return model, images, videos


def _show(stream: TextStream, *, several: bool, json: bool) -> None:
    """One answer as it comes; several, or JSON, when they have ended."""
    if several or json:
        collections.deque(stream, maxlen=0)
    if json:
        found = [dataclasses.asdict(result) for result in stream.results]
        print(as_json(found if several else found[0]))
    elif several:
        for number, result in enumerate(stream.results):
            if number:
                print()
            print_stream([result.text])
    else:
        try:
            print_stream(stream)
        except KeyboardInterrupt:
            if sys.stdout.isatty():
                print()  # the shell's next line begins at the left
            raise


def _check_together(args: argparse.Namespace, prompt: str | None) -> None:
    """What contradicts each other."""
    if args.raw and args.system is not None:
        raise UsageError("got both --raw and --system, expected one of them: a raw prompt says all itself")
    if args.frames is not None and not args.video:
        raise UsageError("--frames is for --video: give both, or neither")
    if prompt is None:
        several = (args.num_return_sequences or 1) > 1
        for flag, given in {
            "json": args.json,
            "raw": args.raw,
            "num-return-sequences": several,
            "video": args.video,
        }.items():
            if given:
                raise UsageError(f"--{flag} needs a prompt")


def _prompt(args: argparse.Namespace) -> str | None:
    """The prompt as given or piped; None where a person sits at the terminal."""
    if args.prompt is not None and args.asked is not None:
        raise UsageError("got two prompts, one by itself and one as --prompt, expected one of them")
    given: str | None = args.prompt if args.asked is None else args.asked
    if given is not None and (given != "-" or args.asked is not None):
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
