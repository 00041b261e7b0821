"""Flags that several commands have: one name, one metavar and one meaning each. Cheap to import.

Enters: a command's parser. Leaves: nothing; the parser has the flag. What a flag was called before stays, unseen in
the help.
"""

from __future__ import annotations

import argparse
from typing import Any

from pumice.machine.devices import DEVICES

BUNDLE = "folder that `pumice export` wrote, or a hub id (org/name, org/name@revision)"
CHECKPOINT = "checkpoint folder in Hugging Face layout, or a hub id (org/name)"


def add_bundle(parser: argparse.ArgumentParser, help: str = BUNDLE, **how: Any) -> None:
    """The first word of most commands."""
    parser.add_argument("bundle", help=help, **how)


def add_revision(
    parser: argparse.ArgumentParser, help: str = "branch, tag or commit of a bundle on the hub"
) -> None:
    """`--revision NAME`, beside a bundle."""
    parser.add_argument("--revision", metavar="NAME", help=help)


def add_private(parser: argparse.ArgumentParser) -> None:
    """`--private`."""
    parser.add_argument(
        "--private", action="store_true", help="make the repository private, where it is made"
    )


def add_checkpoint(parser: argparse.ArgumentParser, help: str = CHECKPOINT) -> None:
    """A folder or a hub id."""
    parser.add_argument("checkpoint", help=help)


def add_adapter(parser: argparse.ArgumentParser, help: str) -> None:
    """`--adapter DIR --adapter-scale X …`: a list of paths, each with a scale behind it or none."""
    together: dict[str, Any] = {"dest": "adapters", "action": "append", "default": []}
    parser.add_argument("--adapter", metavar="DIR", help=help, **together)
    parser.add_argument(
        "--adapter-scale",
        type=float,
        metavar="X",
        help="times this much, for the --adapter before it (1)",
        **together,
    )


def add_image(parser: argparse.ArgumentParser, help: str, **how: Any) -> None:
    """`-i FILE`, `--image FILE`."""
    parser.add_argument("-i", "--image", metavar="FILE", help=help, **how)


def add_video(parser: argparse.ArgumentParser) -> None:
    """`--video FILE`, `--frames N`."""
    parser.add_argument(
        "--video",
        metavar="FILE",
        action="append",
        default=[],
        help="video of the question, of a model that takes videos; repeatable",
    )
    parser.add_argument("--frames", metavar="N", type=int, help="frames that are taken of each video (8)")


def add_prompt(parser: argparse.ArgumentParser, help: str, **how: Any) -> None:
    """`--prompt TEXT`: a question."""
    parser.add_argument("--prompt", metavar="TEXT", help=help, **how)


def add_system(parser: argparse.ArgumentParser) -> None:
    """`--system TEXT`."""
    parser.add_argument("--system", metavar="TEXT", help="what the model is told before the conversation")


def add_raw(parser: argparse.ArgumentParser) -> None:
    """`--raw`."""
    parser.add_argument(
        "--raw",
        action="store_true",
        help="prompts as they stand: no chat template, special tokens are special",
    )


def add_context_length(
    parser: argparse.ArgumentParser,
    help: str = "tokens that a prompt and its answer may have (the model's)",
    **how: Any,
) -> None:
    """`--context-length N`, once `--context`."""
    parser.add_argument("--context-length", type=int, metavar="N", help=help, **how)
    add_alias(parser, "--context", dest="context_length", type=int, **how)


def add_max_new_tokens(parser: argparse.ArgumentParser, help: str, default: int) -> None:
    """`--max-new-tokens N`, of commands without the other options of generation."""
    parser.add_argument("--max-new-tokens", type=int, default=default, metavar="N", help=help)


def add_slots(parser: argparse.ArgumentParser, help: str, default: int | None) -> None:
    """`--slots N`: how many are answered at once."""
    parser.add_argument("--slots", type=int, default=default, metavar="N", help=help)


def add_device(
    parser: argparse.ArgumentParser,
    help: str = "where to compute (%(default)s)",
    default: str | None = "auto",
) -> None:
    """`--device`."""
    parser.add_argument("--device", choices=DEVICES, default=default, help=help)


def add_threads(parser: argparse.ArgumentParser) -> None:
    """`--threads N`."""
    parser.add_argument("--threads", type=int, metavar="N", help="threads to compute with (as many as CPUs)")


def add_low_memory(
    parser: argparse.ArgumentParser, help: str = "leave weights in their files: less memory, slower"
) -> None:
    """`--low-memory`."""
    parser.add_argument("--low-memory", action="store_true", help=help)


def add_output(parser: argparse.ArgumentParser, help: str, **how: Any) -> None:
    """`-o FILE`, `--output FILE`."""
    parser.add_argument("-o", "--output", metavar="FILE", help=help, **how)


def add_json(parser: argparse.ArgumentParser, help: str = "print JSON instead of text") -> None:
    """`--json`."""
    parser.add_argument("--json", action="store_true", help=help)


def add_verbosity(parser: argparse.ArgumentParser) -> None:
    """`-q`, `--quiet`, and `-v`, `--verbose`: every command has them."""
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress")
    parser.add_argument(
        "-v", "--verbose", action="store_true", help="tell what is decided, such as why no GPU is used"
    )


def add_alias(parser: argparse.ArgumentParser, *flags: str, dest: str, **how: Any) -> None:
    """Another spelling of a flag, which helps and completions do not show."""
    parser.add_argument(*flags, dest=dest, help=argparse.SUPPRESS, **how | {"default": argparse.SUPPRESS})
