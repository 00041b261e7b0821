"""Spoilt checkpoints: each is refused in one line, or exported and equal to transformers; none leaves anything behind.

Every mutation is exported for real, but that equal graphs are traced once, as in the whole suite. An address space of
little more than the process has proves that no number in a file makes an export reserve memory, and an alarm that none
makes it run on.
"""

from __future__ import annotations

import resource
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from pumice.cli.main import main
from pumice.export.checkpoint.folder import open_checkpoint
from pumice.export.config.llava import read_config
from pumice.export.config.tying import as_stored
from tests.export.mutations import MUTATIONS, Mutation
from tests.export.mutations.judge import judge
from tests.export.mutations.values import setting
from tests.factory import FAMILIES

ROOM_BYTES = 2 << 30
"""Of address space beyond what the process has: threads' stacks and allocators' arenas, but no huge tensor."""
LIMIT_S = 1200
"""A watchdog, for a machine however busy; most mutations take a tenth of a second."""
LEAST = {"refused": 150, "equal": 60}
"""Verdicts of the whole sweep: a sweep that refuses everything, or nothing, tests nothing."""

Spoil = Callable[[Mutation], Path]


class TakesTooLongError(BaseException):
    """Not an Exception, so that nobody takes it for an error of the checkpoint's."""


@pytest.fixture(scope="module")
def verdicts() -> dict[str, str]:
    return {}


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Mutation], Path]:
    """The whole checkpoints, made when they are asked for."""
    made: dict[str, Path] = {}

    def original(mutation: Mutation) -> Path:
        key = f"{mutation.family} {mutation.options}"
        if key not in made:
            folder = tmp_path_factory.mktemp("original")
            made[key] = FAMILIES[mutation.family](folder, **mutation.options)
        return made[key]

    return original


@pytest.fixture
def spoil(originals: Callable[[Mutation], Path], tmp_path: Path) -> Iterator[Spoil]:
    """A mutated copy of a checkpoint, gone after the test."""

    def copy(mutation: Mutation) -> Path:
        folder = Path(shutil.copytree(originals(mutation), tmp_path / "checkpoint"))
        mutation(folder)
        return folder

    yield copy
    shutil.rmtree(tmp_path, ignore_errors=True)


@contextmanager
def confined() -> Iterator[None]:
    """Little memory and little time."""
    with Path("/proc/self/statm").open() as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    handler = signal.signal(signal.SIGALRM, _too_long)
    resource.setrlimit(resource.RLIMIT_AS, (used + ROOM_BYTES, before[1]))
    signal.alarm(LIMIT_S)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, handler)
        resource.setrlimit(resource.RLIMIT_AS, before)


def _too_long(_number: int, _frame: object) -> None:
    raise TakesTooLongError(f"more than {LIMIT_S} s")


@pytest.mark.slow
@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: f"{mutation.name} ({mutation.family})")
def test_mutated_checkpoints(
    mutation: Mutation, spoil: Spoil, verdicts: dict[str, str], tmp_path: Path
) -> None:
    folder, out = spoil(mutation), tmp_path / "out"
    out.mkdir()
    with confined():
        verdict = judge(folder, out)
    verdicts[mutation.name] = verdict.outcome


@pytest.mark.slow
def test_mutations_are_of_all_kinds(verdicts: dict[str, str]) -> None:
    if len(verdicts) < len(MUTATIONS):
        pytest.skip("some mutations were not run, or failed")
    assert len(MUTATIONS) >= 300
    outcomes = list(verdicts.values())
    assert {kind: outcomes.count(kind) >= least for kind, least in LEAST.items()} == dict.fromkeys(
        LEAST, True
    )


CLASSES: dict[str, Callable[[Path, Path], list[str]]] = {
    "checkpoint": lambda spoilt, out: ["export", str(spoilt), str(out / "bundle")],
    "destination": lambda spoilt, out: ["export", str(spoilt.parent / "sound"), str(spoilt)],
    "use": lambda spoilt, out: ["export", str(spoilt), str(out / "bundle"), "--precision", "int3"],
}


@pytest.mark.parametrize(("kind", "code"), [("checkpoint", 1), ("destination", 1), ("use", 2)])
def test_command_line_says_one_line(
    kind: str, code: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("sound", "spoilt"):
        FAMILIES["llava-1.5"](tmp_path / name)
    Mutation(
        name="odd",
        family="llava-1.5",
        apply=setting("config.json", ("vision_config", "two\nlines \x1b[31m"), 1),
    )(tmp_path / "spoilt")
    (tmp_path / "out").mkdir()
    arguments = CLASSES[kind](tmp_path / "spoilt", tmp_path / "out")
    assert main([*arguments, "--quiet"]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("pumice: error: ")
    assert captured.err.removesuffix("\n").isprintable()
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    ("family", "says", "tied"),
    [("llava-1.5", True, False), ("llava-1.5", False, False), ("llava-interleave", True, True)],
)
def test_a_head_of_its_own_is_used(family: str, says: bool, tied: bool, tmp_path: Path) -> None:
    folder = FAMILIES[family](tmp_path / "checkpoint")
    setting("config.json", ("tie_word_embeddings",), says)(folder, None)  # type: ignore[arg-type]
    checkpoint = open_checkpoint(folder)
    assert as_stored(read_config(checkpoint.config), checkpoint).tie_word_embeddings == tied


def test_an_equal_head_is_tied(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = FAMILIES["llava-interleave"](tmp_path / "checkpoint")
    tensors = load_file(folder / "model.safetensors")
    table = tensors["language_model.model.embed_tokens.weight"]
    for head, tied in ((table.clone(), True), (table + 1, False), (table[:-1].clone(), False)):
        save_file(tensors | {"language_model.lm_head.weight": head}, folder / "model.safetensors")
        checkpoint = open_checkpoint(folder)
        assert as_stored(read_config(checkpoint.config), checkpoint).tie_word_embeddings == tied
    assert torch.equal(table, tensors["language_model.model.embed_tokens.weight"])
