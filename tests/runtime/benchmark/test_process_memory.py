import mmap
import sys
from pathlib import Path

import numpy as np
import pytest

from pumice.benchmark import process_memory as module
from pumice.benchmark.process_memory import process_memory

SIZE = 64 << 20


@pytest.mark.skipif(sys.platform != "linux", reason="others do not tell")
def test_memory_that_is_written_is_resident_and_private() -> None:
    before = process_memory()
    block = mmap.mmap(-1, SIZE)  # new pages: the allocator might have some left of earlier tests
    np.frombuffer(block, np.uint8)[:] = 1
    after = process_memory()
    for name in ("resident memory", "of it private"):
        assert after[name] - before[name] > 0.9 * SIZE
    assert after["most resident memory"] >= after["resident memory"]


def test_where_there_is_no_proc(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(
        module, "_NAMES", {name: (tmp_path / "none", field) for name, (_, field) in module._NAMES.items()}
    )
    assert list(process_memory()) == ["most resident memory"]
    assert process_memory()["most resident memory"] > 10 << 20
