"""Oracle: safetensors' own reader."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from pumice.errors import CheckpointError
from pumice.export.checkpoint.tensor_file import read_header, read_rows, read_whole


@pytest.fixture
def file(tmp_path: Path) -> Path:
    generator = torch.Generator().manual_seed(0)
    tensors = {
        f"t{rank}.{str(dtype).removeprefix('torch.')}": torch.randn(
            (5, 3, 2)[:rank], generator=generator, dtype=torch.float64
        ).to(dtype)
        for rank in range(4)
        for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    }
    save_file(tensors | {"none": torch.empty(0, 4)}, tmp_path / "model.safetensors", {"format": "pt"})
    return tmp_path / "model.safetensors"


def test_whole_tensors_and_rows(file: Path) -> None:
    header, expected = read_header(file), load_file(file)
    assert header.keys() == expected.keys()
    for name, tensor in expected.items():
        info = header[name]
        assert info.shape == tuple(tensor.shape)
        assert torch.equal(read_whole(info), tensor)
        assert read_whole(info).dtype == tensor.dtype
        if tensor.dim() and len(tensor):
            for start, stop in ((0, 5), (1, 3), (4, 5), (2, 2)):
                assert torch.equal(read_rows(info, start, stop), tensor[start:stop])


def test_a_file_that_was_cut_or_removed_since(file: Path) -> None:
    infos = read_header(file)
    last = max(infos.values(), key=lambda info: info.offset)
    data = file.read_bytes()
    file.write_bytes(data[:-1])
    with pytest.raises(CheckpointError, match="it ends too early"):
        read_whole(last)
    file.unlink()
    with pytest.raises(CheckpointError, match="No such file"):
        read_whole(last)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is missing"):
        read_header(tmp_path / "none.safetensors")
    with pytest.raises(CheckpointError, match="is not a file"):
        read_header(tmp_path)
