"""What `--bundles` leaves out, and that a run of nothing is no success."""

from types import SimpleNamespace
from typing import Any

import pytest

from tests import without_export


@pytest.mark.parametrize(
    ("source", "needed"),
    [
        ("import torch", True),
        ("import numpy, torch.nn as nn", True),
        ("from transformers.models import llava", True),
        ("from pumice.export.pipeline import export_bundle", True),
        ("from tests.factory import FAMILIES", True),
        ("import pumice\nfrom pumice.exported import x\nimport torchless", False),
        ("def late():\n    import torch", False),
        ("from . import torch", False),
    ],
)
def test_what_is_imported_at_the_top_counts(source: str, needed: bool) -> None:
    assert without_export.imports_the_extra(source) is needed


@pytest.mark.parametrize(("stats", "status"), [({"passed": [1]}, 0), ({"skipped": [1]}, 5), ({}, 5)])
def test_a_run_in_which_nothing_passed_has_failed(stats: dict[str, Any], status: int) -> None:
    plugins = SimpleNamespace(get_plugin=lambda name: SimpleNamespace(stats=stats))
    config = SimpleNamespace(getoption=lambda name: "bundles", pluginmanager=plugins)
    session: Any = SimpleNamespace(config=config, exitstatus=0)
    without_export.pytest_sessionfinish(session, exitstatus=0)
    assert session.exitstatus == status
