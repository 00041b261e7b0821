from __future__ import annotations

from pathlib import Path

import pytest

from bench.marks import replace_part

PAGE = "# Title\n\n<!-- real -->\nold\n<!-- /real -->\n\nbehind\n<!-- table -->\nkept\n<!-- /table -->\n"


def test_what_stands_around_stays(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    replace_part(page, "real", "| new \\1 |")
    replace_part(page, "real", "| newer \\1 |")
    assert page.read_text() == PAGE.replace("old", "| newer \\1 |")


@pytest.mark.parametrize(
    "text",
    [
        "no marks at all",
        "<!-- real --> and no end",
        "<!-- /real --> before <!-- real -->",
        f"{PAGE}<!-- real -->",
    ],
)
def test_a_page_without_its_marks_is_refused_and_stays(tmp_path: Path, text: str) -> None:
    page = tmp_path / "page.md"
    page.write_text(text)
    with pytest.raises(ValueError, match="once each"):
        replace_part(page, "real", "new")
    assert page.read_text() == text


@pytest.mark.parametrize("name", ["table", "real"])
def test_the_page_of_accuracy_has_its_marks(tmp_path: Path, name: str) -> None:
    page = tmp_path / "accuracy.md"
    page.write_bytes((Path(__file__).parents[2] / "docs" / "accuracy.md").read_bytes())
    replace_part(page, name, "new")
    assert "new" in page.read_text()
