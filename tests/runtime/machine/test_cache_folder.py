"""Where things are kept, by the environment."""

from __future__ import annotations

from pathlib import Path

import pytest

from pumice.machine.cache_folder import cache_folder


@pytest.mark.parametrize(
    ("own", "xdg", "expected"),
    [
        ("{}/own", "{}/xdg", "own/graphs"),
        ("{}/link", None, "own/graphs"),
        ("~/own", None, "home/own/graphs"),
        (None, "{}/xdg", "xdg/pumice/graphs"),
        ("", "{}/xdg", "xdg/pumice/graphs"),
        (None, "xdg", "home/.cache/pumice/graphs"),
        (None, None, "home/.cache/pumice/graphs"),
    ],
)
def test_folder(
    own: str | None, xdg: str | None, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "own")
    for name, value in (("PUMICE_CACHE_DIR", own), ("XDG_CACHE_HOME", xdg), ("HOME", str(tmp_path / "home"))):
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value.format(tmp_path))
    assert cache_folder("graphs") == tmp_path.resolve() / expected
