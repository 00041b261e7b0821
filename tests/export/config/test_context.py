"""A bundle's context: the checkpoint's, bounded, or what is asked for."""

from dataclasses import replace
from pathlib import Path

import pytest

from pumice.errors import UsageError
from pumice.export.checkpoint.folder import open_checkpoint
from pumice.export.config.llava import LONGEST, limit_context, read_config
from tests.factory import Text, make_checkpoint


def test_context(tmp_path: Path) -> None:
    config = read_config(open_checkpoint(make_checkpoint(tmp_path, text=Text(context=512))).config)
    assert limit_context(config, None) == config
    assert limit_context(config, 100).text.max_position_embeddings == 100
    for refused in (0, -1, 513):
        with pytest.raises(UsageError, match="expected 1 to 512"):
            limit_context(config, refused)
    long = replace(config, text=replace(config.text, max_position_embeddings=1_024_000))
    assert limit_context(long, None).text.max_position_embeddings == LONGEST
    assert limit_context(long, 1_024_000) == long
