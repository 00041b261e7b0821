"""The part of the suite that needs no more than an installed runtime: `pytest --bundles FOLDER tests/runtime`.

Enters: a folder of bundles that another environment has exported. Left out, and told: files that import something of
the export extra, tests that are marked `export_extra`, and those that ask for a bundle which is not in the folder.
A run in which no test passed has failed.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

EXTRA = {"torch", "transformers", "onnx", "onnxscript", "onnx_ir", "optimum", "safetensors", "ray"}
"""Packages that an environment without the extras `export` and `ray` does not have."""
EXPORTING = ("pumice.export.", "pumice.models.", "tests.factory", "tests.oracle", "tests.export.")
"""Modules that import some of them."""
FIXTURES = {"pebble_bundle_cuda", "pebble_bundle_int8_cache"}
"""Bundles that are not among the given ones."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--bundles",
        metavar="FOLDER",
        help="take pebble-fp32 and pebble-int4 from here, and leave out all tests that need the export extra",
    )


def bundles_folder(config: pytest.Config) -> Path | None:
    """Where the bundles are that were exported beforehand."""
    given = config.getoption("--bundles")
    return Path(given).resolve() if given else None


def imports_the_extra(source: str) -> bool:
    """Whether importing a module needs the extra; what functions import does not count."""
    for statement in ast.parse(source).body:
        names = []
        if isinstance(statement, ast.Import):
            names = [alias.name for alias in statement.names]
        elif isinstance(statement, ast.ImportFrom) and not statement.level:
            names = [statement.module or ""]
        if any(name.partition(".")[0] in EXTRA or f"{name}.".startswith(EXPORTING) for name in names):
            return True
    return False


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    if bundles_folder(config) is None or collection_path.suffix != ".py":
        return None
    return imports_the_extra(collection_path.read_text()) or None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if bundles_folder(config) is None:
        return
    needing = [item for item in items if needs_the_extra(item)]
    config.hook.pytest_deselected(items=needing)
    items[:] = [item for item in items if item not in set(needing)]


def needs_the_extra(item: pytest.Item) -> bool:
    fixtures = set(getattr(item, "fixturenames", ()))
    return item.get_closest_marker("export_extra") is not None or bool(fixtures & FIXTURES)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if bundles_folder(config) is None:
        return
    passed = len(terminalreporter.stats.get("passed", []))
    files = sorted(path for folder in config.args for path in Path(folder).rglob("test_*.py"))
    left_out = [path.name for path in files if imports_the_extra(path.read_text())]
    terminalreporter.write_line(f"without the export extra: {passed} tests passed")
    terminalreporter.write_line(f"left out for what they import: {' '.join(left_out) or 'no file'}")


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if bundles_folder(session.config) is None or reporter is None or hasattr(session.config, "workerinput"):
        return
    if exitstatus == pytest.ExitCode.OK and not reporter.stats.get("passed"):
        session.exitstatus = pytest.ExitCode.NO_TESTS_COLLECTED
