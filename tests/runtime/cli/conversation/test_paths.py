"""Paths as people and terminals write them."""

from pathlib import Path

import pytest

from pumice.cli.conversation.completion import completions
from pumice.cli.conversation.paths import dropped_images, typed_paths
from pumice.cli.conversation.typed import Typed, read_typed


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in (
        "cat.png",
        "my dog.JPG",
        "it's.webp",
        "猫.png",
        "notes.txt",
        "a  b.gif",
        "screen\u202fshot.png",
    ):
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("typed", "names"),
    [
        ("cat.png", ["cat.png"]),
        ("  ~/cat.png ", ["cat.png"]),
        ("my dog.JPG", ["my dog.JPG"]),
        ("~/my dog.JPG", ["my dog.JPG"]),
        ("'{}/my dog.JPG'", ["my dog.JPG"]),
        ('"{}/my dog.JPG"', ["my dog.JPG"]),
        (r"{}/my\ dog.JPG", ["my dog.JPG"]),
        ("file://{}/my%20dog.JPG", ["my dog.JPG"]),
        ("FILE://localhost{}/cat.png", ["cat.png"]),
        (r"'{}/it'\''s.webp'", ["it's.webp"]),
        ("it's.webp", ["it's.webp"]),
        ("{}/it's.webp cat.png", ["it's.webp", "cat.png"]),
        ("猫.png cat.png", ["猫.png", "cat.png"]),
        ("~/my dog.JPG a  b.gif cat.png", ["my dog.JPG", "a  b.gif", "cat.png"]),
        ("screen\u202fshot.png", ["screen\u202fshot.png"]),
        ("'{0}/cat.png' '{0}/my dog.JPG'", ["cat.png", "my dog.JPG"]),
    ],
)
def test_paths_behind_a_command(typed: str, names: list[str], folder: Path) -> None:
    paths = typed_paths(typed.format(folder))
    assert [str(Path(path).absolute()) for path in paths] == [str(folder / name) for name in names]


def test_paths_of_nothing_stay_as_they_are(folder: Path) -> None:
    assert typed_paths("none.png 'no ne.png'") == ["none.png", "no ne.png"]
    assert typed_paths("") == []
    assert typed_paths("a\0b") == ["a\0b"]


@pytest.mark.parametrize(
    ("typed", "names", "question"),
    [
        ("cat.png", ["cat.png"], ""),
        ("'{}/my dog.JPG' ", ["my dog.JPG"], ""),
        ("{}/cat.png what is this?", ["cat.png"], "what is this?"),
        ("What is this? file://{}/my%20dog.JPG", ["my dog.JPG"], "What is this?"),
        ("{0}/cat.png {0}/my dog.JPG Which?", ["cat.png", "my dog.JPG"], "Which?"),
        ("What is in {}/cat.png?", ["cat.png"], "What is in cat.png?"),
        ("Is ~/cat.png like ~/猫.png, or not?", ["cat.png", "猫.png"], "Is cat.png like 猫.png, or not?"),
        ("Is notes.txt a text?", [], "Is notes.txt a text?"),
        ("And {}/none.png?", [], "And {}/none.png?"),
        ("What is folder.png?", [], "What is folder.png?"),
        ("it's mine", [], "it's mine"),
        ("Two\nlines\n{}/cat.png", ["cat.png"], "Two\nlines"),
    ],
)
def test_images_dropped_into_a_question(typed: str, names: list[str], question: str, folder: Path) -> None:
    dropped = dropped_images(typed.format(folder))
    assert [Path(path).name for path in dropped.paths] == names
    assert dropped.question == question.format(folder)


def test_a_long_text_is_not_searched(folder: Path) -> None:
    assert dropped_images("cat.png " + "x" * 10_000).paths == []


@pytest.mark.parametrize(
    ("lines", "typed"),
    [
        (["  Hi  "], Typed(text="Hi")),
        (['"""Hi"""'], Typed(text="Hi", verbatim=True)),
        (['"""', "one", "", "/quit", '"""'], Typed(text="one\n\n/quit", verbatim=True)),
        (['"""one', 'two"""'], Typed(text="one\ntwo", verbatim=True)),
        (['/system """Be', 'brief."""'], Typed(text="/system Be\nbrief.")),
        (['/set parameter x """a"""'], Typed(text='/set parameter x """a"""')),
        (['say """ loudly'], Typed(text='say """ loudly')),
        (["pasted\nlines"], Typed(text="pasted\nlines")),
        (['"""pasted\nlines"""'], Typed(text="pasted\nlines", verbatim=True)),
    ],
)
def test_quotes_around_several_lines(lines: list[str], typed: Typed) -> None:
    rest = iter(lines)
    assert read_typed(lambda goes_on: next(rest)) == typed
    assert list(rest) == []


def test_input_that_ends_within_quotes() -> None:
    rest = iter(['"""one', None])
    assert read_typed(lambda goes_on: next(rest)) is None


@pytest.mark.parametrize(
    ("line", "whole"),
    [
        ("/sta", ["/stats "]),
        ("/im", ["/image ", "/images "]),
        ("/help sy", ["/help system"]),
        ("/set min_n", ["/set min_new_tokens "]),
        ("/set min_p 0", []),
        ("/image ~/my", [r"/image ~/my\ dog.JPG"]),
        (r"/image my\ d", [r"/image my\ dog.JPG"]),
        ("/image 'my d", ["/image 'my dog.JPG'"]),
        ("/image no", []),
        ("/save no", ["/save notes.txt"]),
        ("/image fo", ["/image folder.png/"]),
        ("What is ./ca", ["What is ./cat.png"]),
        ("What is ca", []),
        ("/image nowhere/x", []),
    ],
)
def test_completion(line: str, whole: list[str], folder: Path) -> None:
    begin, offered = completions(line)
    assert [line[:begin] + word for word in offered] == whole
