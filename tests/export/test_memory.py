"""Exporting a text model of a billion parameters takes memory for its largest tensor, not for the model."""

import shutil
import subprocess
import sys

import pytest

from tests.factory import BILLION, Vision, make_checkpoint

LIMIT_MB = 1500
"""Above the import of torch; the bundle's weights take 4,300 MB."""

SCRIPT = """
import resource, sys
from pathlib import Path
import torch
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before = peak()
from pumice.export.pipeline import export_bundle
export_bundle(sys.argv[1], Path(sys.argv[2]), precision="fp32")
print((peak() - before) // 1024)
"""


@pytest.mark.slow
def test_memory_of_exporting_a_billion_parameters(tmp_path):
    if shutil.disk_usage(tmp_path).free < 10e9:
        pytest.skip("needs 10 GB of disk")
    vision = Vision(width=1024, layers=4, heads=16, mlp=4096, image_size=336)
    checkpoint = make_checkpoint(
        tmp_path / "c", vision=vision, text=BILLION, dtype="float16", shard_bytes=1 << 29
    )
    try:
        command = [sys.executable, "-c", SCRIPT, str(checkpoint), str(tmp_path / "b")]
        run = subprocess.run(command, check=True, capture_output=True, text=True)
        size = sum(file.stat().st_size for file in (tmp_path / "b" / "onnx").iterdir())
    finally:
        shutil.rmtree(tmp_path, ignore_errors=True)
    assert size > 4e9
    assert int(run.stdout) < LIMIT_MB
