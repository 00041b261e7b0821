"""A server that does nothing is measured from its start, and an engine beside it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from bench.idle import in_process, served

PUMICE = Path(sys.executable).with_name("pumice")


@pytest.mark.skipif(not PUMICE.exists(), reason="the command is not installed beside this Python")
def test_what_is_measured(pebble_bundle: Path) -> None:
    line = served(str(PUMICE), pebble_bundle, 0.1)
    assert 0 < line["listening_s"] <= line["ready_s"]
    assert line["ready_cpu_s"] > 0
    assert line["idle_cpu_s"] >= 0
    engine = in_process(sys.executable, pebble_bundle)
    assert 30 < engine["rss_mib"] < 1000
    assert 30 < line["idle_rss_mib"] < 1000
