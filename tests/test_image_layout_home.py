"""One place decides which layout a manifest's fields describe, and nobody else looks at which of them are null."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
HOME = Path("runtime/manifest/images.py")
ASKED = re.compile(r"\.size is (not )?None|per_image is|patch_size is|resize_longest_edge is|break_token is")
STEPS = {Path("runtime/images/preprocess.py"): 1, Path("export/clients/transformers_js.py"): 1}
"""Of the steps of preparing an image each is skipped, or not told of, where it is null, whatever the layout."""


def asking(root: Path) -> dict[Path, int]:
    """Sources that ask which layout there is, and how often."""
    files = [
        path for folder in ("runtime", "export", "bench") for path in sorted((root / folder).rglob("*.py"))
    ]
    found = {path.relative_to(root): len(ASKED.findall(path.read_text(encoding="utf-8"))) for path in files}
    return {path: count for path, count in found.items() if count}


def test_only_the_manifest_asks_which_fields_are_null() -> None:
    found = asking(ROOT)
    others = sorted(map(str, found.keys() - {HOME, *STEPS}))
    assert not others, f"ask manifest.layout instead: {others}"
    assert found == {HOME: 1, **STEPS}  # version_for; `layout_of` matches them all at once


def test_a_question_elsewhere_is_found(tmp_path: Path) -> None:
    for folder in ("runtime", "export", "bench"):
        (tmp_path / folder).mkdir()
    (tmp_path / "runtime/new.py").write_text(
        "if manifest.image.size is not None or tokens.per_image is None: ..."
    )
    assert asking(tmp_path) == {Path("runtime/new.py"): 2}
