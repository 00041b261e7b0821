from __future__ import annotations

from pathlib import Path

import pytest

from bench.real.lock import locked


def test_one_at_a_time(tmp_path: Path) -> None:
    with (
        locked(tmp_path / "real"),
        pytest.raises(SystemExit, match="real is in use by another measurement"),
        locked(tmp_path / "real"),
    ):
        pass
    with locked(tmp_path / "real"), locked(tmp_path / "other"):
        pass
