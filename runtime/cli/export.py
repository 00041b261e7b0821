"""The command line's `export` and `verify`: their arguments, one call each, and what is printed. Cheap to import."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pumice.cli import vocabulary
from pumice.cli.located import tell
from pumice.cli.push import checked_target, pushed_bundle
from pumice.cli.terminal import json_lines, printable, printable_lines
from pumice.errors import HubError, UsageError
from pumice.export.recipes.recipe import KV_CACHES, NAMES, PRECISIONS, SEARCHES, load_recipe

if TYPE_CHECKING:
    from pumice.export.adapters.folder import Adapter
    from pumice.hub.name import HubName
    from pumice.manifest import Manifest


def add_export_arguments(parser: argparse.ArgumentParser) -> None:
    """`pumice export CHECKPOINT BUNDLE …`."""
    vocabulary.add_checkpoint(parser)
    vocabulary.add_bundle(parser, "folder to write; it appears whole or not at all", type=_folder)
    how = parser.add_mutually_exclusive_group()
    how.add_argument(
        "--recipe",
        metavar="NAME|FILE",
        help=f"how weights are stored: {', '.join(NAMES)} (docs/recipes.md), or a .toml file (portable-fp32)",
    )
    how.add_argument("--precision", choices=PRECISIONS, help="the usual recipe of a precision instead")
    parser.add_argument(
        "--block-size", type=int, metavar="N", help="int4, int8: columns that share a scale, 16 to 256"
    )
    blocks = parser.add_mutually_exclusive_group()
    blocks.add_argument(
        "--symmetric", action="store_true", default=None, help="int4, int8: blocks without zero points"
    )
    blocks.add_argument(
        "--asymmetric", dest="symmetric", action="store_false", help="int4, int8: blocks with zero points"
    )
    parser.add_argument(
        "--search",
        choices=SEARCHES,
        help="int4, int8: how scales are found: by range, by weights, or by what activations carry",
    )
    parser.add_argument(
        "--calibrate",
        metavar="FILE|text",
        help="int4: measure activations on this text, or on pumice's own, and feed rounding errors back (GPTQ); "
        "slower and nearer than by random tokens",
    )
    parser.add_argument(
        "--kv-cache",
        choices=KV_CACHES,
        help="keys and values as attention computes, or in 8 bits: a quarter of the memory, quicker over long "
        "contexts (the recipe's)",
    )
    vocabulary.add_adapter(
        parser, "LoRA adapter to merge, a folder or hub id (docs/adapters.md); repeatable, in order"
    )
    vocabulary.add_context_length(
        parser, "tokens that a prompt and its answer may have (the checkpoint's context, up to 131,072)"
    )
    parser.add_argument(
        "--max-tiles",
        type=int,
        metavar="N",
        help="most tiles of an image, where the model cuts images into tiles (the checkpoint's)",
    )
    parser.add_argument(
        "--no-clients",
        dest="clients",
        action="store_false",
        help="without the files of Transformers.js and onnxruntime-genai (docs/clients.md)",
    )
    parser.add_argument(
        "--no-graph-cache",
        dest="graph_cache",
        action="store_false",
        help="trace all graphs, even if those of an equal model were kept, and keep none",
    )
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace a bundle that is there already, if nobody put other files into it",
    )
    parser.add_argument(
        "--verify", action="store_true", help="compare with transformers before moving into place"
    )
    parser.add_argument(
        "--push",
        metavar="org/name",
        help="push the bundle to the hub when it is there, and with --verify sound (docs/hub.md); or org/name@branch",
    )
    vocabulary.add_private(parser)
    vocabulary.add_verbosity(parser)


def _folder(text: str) -> Path:
    """Not the empty text, which a path takes for the folder that it runs in."""
    if not text.strip():
        raise argparse.ArgumentTypeError(f"expected the name of a folder to write, got {text!r}")
    return Path(text)


def run_export(args: argparse.Namespace) -> int:
    """Export, and say where the bundle is; 1 if it was to be verified and is not sound."""
    if args.recipe is not None:
        load_recipe(args.recipe)
    if args.private and args.push is None:
        raise UsageError("--private is for --push: give both, or neither")
    target = None if args.push is None else checked_target(args.push, private=args.private)
    from pumice.export.weights.allocator import keep_freed_memory

    keep_freed_memory()
    from pumice.export.pipeline import export_bundle

    adapters = named_adapters(args.adapters)
    manifest = export_bundle(
        args.checkpoint,
        args.bundle,
        recipe=args.recipe,
        precision=args.precision,
        block_size=args.block_size,
        symmetric=args.symmetric,
        search=args.search,
        calibrate=args.calibrate,
        kv_cache=args.kv_cache,
        context_length=args.context_length,
        max_tiles=args.max_tiles,
        adapters=adapters,
        clients=args.clients,
        graph_cache=args.graph_cache,
        overwrite=args.overwrite,
        verify=args.verify,
        quiet=args.quiet,
    )
    _say(args, manifest)
    sound = not args.verify or manifest.parity is None or bool(manifest.parity["passed"])
    if target is not None:
        _push(args, target, sound)
    return 0 if sound else 1


def _say(args: argparse.Namespace, manifest: Manifest) -> None:
    """Where the bundle is, and how near."""
    if args.quiet:
        return
    size = sum(entry.size for entry in manifest.files.values())
    print(
        printable(
            f"{args.bundle}: {manifest.source.checkpoint} by {manifest.precision.recipe}, {size / 1e6:,.1f} MB"
        )
    )
    if args.verify and manifest.parity is not None:
        print(
            printable(
                f"{manifest.parity['verdict']}: {manifest.parity['meaning']} "
                f"(by {manifest.parity['judged_by']}; see {args.bundle / 'PARITY.md'})"
            )
        )


def _push(args: argparse.Namespace, target: HubName, sound: bool) -> None:
    """What hours have made stays, whatever the hub says."""
    if not sound:
        tell(f"not pushed to {target}: the bundle is not sound")
        return
    try:
        pushed_bundle(args.bundle, target, private=args.private, quiet=args.quiet)
    except HubError as error:
        raise HubError(f"{error}; to try again: pumice push {args.bundle} {target}") from error


def add_verify_arguments(parser: argparse.ArgumentParser) -> None:
    """`pumice verify BUNDLE CHECKPOINT …`."""
    vocabulary.add_bundle(parser, "bundle to check; the figures are stored in it", type=Path)
    vocabulary.add_checkpoint(parser, "checkpoint folder, or hub id, that it was exported from")
    vocabulary.add_adapter(
        parser, "adapter that was merged at export, with the same --adapter-scale; repeatable"
    )
    add_asked_arguments(parser, "a question to compare on instead of the built-in ones; repeatable")
    add_text_arguments(parser)
    vocabulary.add_json(parser)
    vocabulary.add_verbosity(parser)


def add_asked_arguments(parser: argparse.ArgumentParser, prompt: str) -> None:
    """`--prompt TEXT -i IMAGE …`, whose help is `prompt`, and how they are answered."""
    together: dict[str, Any] = {"dest": "asked", "action": "append", "default": []}
    vocabulary.add_prompt(parser, prompt, **together)
    vocabulary.add_image(parser, "image for the --prompt before it; repeatable", type=Path, **together)
    vocabulary.add_max_new_tokens(parser, "tokens to compare (%(default)s)", default=32)
    vocabulary.add_device(
        parser,
        "where the bundle computes (cpu; auto for float16 and bfloat16); transformers computes on the CPU",
        default=None,
    )


def add_text_arguments(parser: argparse.ArgumentParser) -> None:
    """`--text FILE …`: texts to score by."""
    parser.add_argument(
        "--text",
        dest="texts",
        action="append",
        default=[],
        type=Path,
        metavar="FILE",
        help="plain text to score by: perplexity, KL and top-1; repeatable",
    )
    parser.add_argument(
        "--text-window", type=int, default=1024, metavar="N", help="tokens read together (%(default)s)"
    )
    parser.add_argument(
        "--text-limit", type=int, default=8192, metavar="N", help="most tokens of each text (%(default)s)"
    )


def run_verify(args: argparse.Namespace) -> int:
    """Verify, and print the tables and the verdict; 1 if the bundle is not sound."""
    questions = asked_questions(args)
    from pumice.export.verify.probes import own_probes
    from pumice.export.verify.texts import read_texts

    probes = own_probes(questions)
    texts = read_texts(args.texts, window=args.text_window, limit=args.text_limit)
    adapters = named_adapters(args.adapters)
    import msgspec  # and torch with what follows, which takes seconds

    from pumice.export.progress import showing
    from pumice.export.verify.comparison import verify_bundle
    from pumice.export.verify.parity_table import text_table

    with showing(quiet=args.quiet or args.json) as progress:
        report = verify_bundle(
            args.bundle,
            args.checkpoint,
            adapters=adapters,
            probes=probes,
            texts=texts,
            max_new_tokens=args.max_new_tokens,
            device=args.device,
            progress=progress,
        ).report
    if args.json:
        print(json_lines(msgspec.json.format(msgspec.json.encode(report), indent=2).decode()))
    else:
        print(printable_lines(text_table(report)))
    return 0 if report.summary.passed else 1


def named_adapters(given: list[str | float]) -> list[Adapter]:
    """Each `--adapter` with the `--adapter-scale` that follows it, or 1."""
    from pumice.export.adapters.folder import Adapter

    adapters: list[Adapter] = []
    free = False
    for item in given:
        if isinstance(item, str):
            adapters.append(Adapter(path=item))
        elif free:
            adapters[-1] = Adapter(path=adapters[-1].path, scale=item)
        else:
            raise UsageError(
                f"--adapter-scale {item:g} has no --adapter before it: give the adapter, then its scale"
            )
        free = isinstance(item, str)
    return adapters


def asked_questions(args: argparse.Namespace) -> list[tuple[str, list[Path]]]:
    """Each `--prompt` with the images that follow it; images before the first one are its too."""
    if args.max_new_tokens < 1:
        raise UsageError(f"--max-new-tokens is {args.max_new_tokens}, expected at least 1")
    early: list[Path] = []
    questions: list[tuple[str, list[Path]]] = []
    for item in args.asked:
        if isinstance(item, str):
            questions.append((item, early))
            early = []
        else:
            (questions[-1][1] if questions else early).append(item)
    if early:
        raise UsageError("--image is for a --prompt: give both, or neither")
    return questions
