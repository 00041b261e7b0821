"""Who may import whom: the rooms of the house, written once, and every import of the sources held against them.

Late imports, inside functions, count as all others; imports for type checkers only do not. A room may import the rooms
on the lines below its own; rooms on one line do not know each other, but where `<` says so: the right may import the
left.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = {"pumice": ROOT / "runtime", "pumice.export": ROOT / "export", "pumice.models": ROOT / "models"}

RUNTIME = """
cli | lmms
serve < ray
benchmark | engine < bulk
stream < chat < model < loading
pipeline
scheduler
generation | prompt < vision < decoder
hub | images | sessions
bundle
machine | manifest
errors | result
"""
EXPORT = """
compare
pipeline
graphs | verify
structure
passes
config < calibration < weights | processor
clients | recipes | trace
adapters
bundle | checkpoint
progress
"""
MAY_BE_IMPORTED_BY_EXPORT = {"manifest", "errors", "the face"}
"""Of the runtime; `the face` are the public names of `pumice` itself."""
DOORS_FOR_EXPORT = {"pumice.images.layout", "pumice.machine.cache_folder", "pumice.bundle.browser"}
"""Verify joins the features of tiles as answers do; both sides keep what they keep in one folder; recipes know tabs."""
NEVER_IN_RUNTIME = {
    *("torch", "transformers", "onnx", "onnx_ir", "onnxscript", "optimum", "safetensors", "lmms_eval"),
    "huggingface_hub",
}
EXCEPTIONS = {("cli", "optimum"), ("lmms", "lmms_eval"), ("hub", "huggingface_hub")}
"""Rooms that somebody else's program imports, or that are there for one, and that program."""
FACE = "the face"


def floors(table: str) -> dict[str, set[str]]:
    """Each room of a table, with the rooms that it may import."""
    allowed: dict[str, set[str]] = {}
    below: set[str] = set()
    for line in reversed(table.strip().splitlines()):
        here: set[str] = set()
        for part in line.split("|"):
            chain: set[str] = set()
            for room in part.split("<"):
                allowed[room.strip()] = below | chain
                chain.add(room.strip())
            here |= chain
        below |= here
    return allowed


def module_files(sources: Mapping[str, Path]) -> Iterator[tuple[str, Path]]:
    """Every module's name and file."""
    for package, folder in sources.items():
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            yield ".".join([package, *(part for part in parts if part != "__init__")]), path


def room_of(module: str) -> tuple[str, str]:
    """(runtime, export or models; the room) of a module or of a name in one."""
    parts = module.split(".")
    if len(parts) > 1 and parts[1] in ("export", "models"):
        return parts[1], parts[2] if len(parts) > 2 else FACE
    return "runtime", parts[1] if len(parts) > 1 else FACE


def imported(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and full name of everything that is imported, but for type checkers only."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "sources import by full names"
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)
        else:
            yield from imported(node)


def violations(sources: Mapping[str, Path]) -> list[str]:
    """What breaks the rule, one line each."""
    allowed = {"runtime": floors(RUNTIME), "export": floors(EXPORT)}
    found = []
    for module, path in module_files(sources):
        side, room = room_of(module)
        for line, name in imported(ast.parse(path.read_text(encoding="utf-8"))):
            complaint = _complaint(side, room, name, allowed)
            if complaint:
                found.append(f"{path.name}:{line}: {side}/{room} imports {name}: {complaint}")
    return found


def _complaint(side: str, room: str, name: str, allowed: Mapping[str, Mapping[str, set[str]]]) -> str | None:
    top = name.split(".")[0]
    if top != "pumice":
        forbidden = side == "runtime" and top in NEVER_IN_RUNTIME and (room, top) not in EXCEPTIONS
        return "the runtime never does" if forbidden else None
    other_side, other = room_of(name)
    if side == other_side:
        return _within(side, room, other, allowed)
    if (side, room) == ("runtime", "cli") or (side, other) == ("models", "errors"):
        return None  # the command line has the exporter's commands, too
    if side == "export":
        public = other in MAY_BE_IMPORTED_BY_EXPORT or name.count(".") == 1
        if other_side == "models" or public or name.rpartition(".")[0] in DOORS_FOR_EXPORT:
            return None
        return "the exporter takes pumice's public names, its manifest and its errors"
    return f"{side} knows nothing of {other_side}"


def _within(side: str, room: str, other: str, allowed: Mapping[str, Mapping[str, set[str]]]) -> str | None:
    if side == "models" or room in (FACE, "__main__", other) or other not in allowed[side]:
        return None  # a name that is no room's is a public one
    if room not in allowed[side]:
        return f"{room} stands in no line of the table"
    return None if other in allowed[side][room] else f"{other} is not below {room}"


def test_every_import_follows_the_rule() -> None:
    assert violations(SOURCES) == []


@pytest.mark.parametrize("side", ["runtime", "export"])
def test_every_room_stands_in_the_table_once(side: str) -> None:
    table = RUNTIME if side == "runtime" else EXPORT
    written = sorted(table.replace("|", " ").replace("<", " ").split())
    there = {room_of(module)[1] for module, _ in module_files(SOURCES) if room_of(module)[0] == side}
    assert written == sorted(there - {FACE, "__main__"})


@pytest.mark.parametrize(
    ("file", "source", "complaint"),
    [
        ("machine/cpu.py", "from pumice.bundle.plan import plan", "bundle is not below machine"),
        ("images/files.py", "def late():\n    import torch", "the runtime never does"),
        ("loading.py", "def late():\n    import huggingface_hub", "the runtime never does"),
        ("vision/encoder.py", "from pumice.decoder.kv_cache import KVCache", "decoder is not below vision"),
        ("model.py", "def late():\n    from pumice.export.pipeline import export_bundle", "knows nothing of"),
        (
            "export/weights/x.py",
            "from pumice.passes import x\nfrom pumice.decoder.decoder import Decoder",
            "public",
        ),
        ("attic/x.py", "from pumice.errors import PumiceError", "attic stands in no line"),
    ],
)
def test_a_planted_violation_is_found(file: str, source: str, complaint: str, tmp_path: Path) -> None:
    side, _, rest = file.rpartition("export/")
    path = tmp_path / ("export" if side or file.startswith("export/") else "runtime") / (rest or file)
    path.parent.mkdir(parents=True)
    path.write_text(source)
    folders = {"pumice": tmp_path / "runtime", "pumice.export": tmp_path / "export"}
    assert complaint in "\n".join(violations(folders))


def test_doors_are_named_in_every_room() -> None:
    """Each room says in its `__init__` what enters and what leaves."""
    for name in ("runtime", "export"):
        for folder in sorted((ROOT / name).glob("*/__init__.py")):
            text = ast.get_docstring(ast.parse(folder.read_text(encoding="utf-8"))) or ""
            assert "Enters:" in text, folder
            assert "Leaves:" in text, folder
