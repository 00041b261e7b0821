"""Settings by flag, environment and file: which counts, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pumice.cli.parsing import parse
from pumice.errors import UsageError
from pumice.serve.settings import FLAGS, Settings, gather


def test_flags_count_before_the_environment_and_that_before_the_file(tmp_path: Path) -> None:
    file = tmp_path / "serve.toml"
    file.write_text(
        'bundle = "c"\nport = 1\nmax-queue = 2\nslots = 3\nalias = ["x", "y"]\ndrain = 5\nlow_memory = true\n'
    )
    environment = {"PUMICE_SERVE_PORT": "4", "PUMICE_SERVE_MAX_QUEUE": "5", "PUMICE_SERVE_ALLOW_HOST": "a, b"}
    settings = gather({"port": "6", "bundle": None, "alias": []}, environment, file)
    assert settings.bundle == Path("c")
    assert (settings.port, settings.max_queue, settings.slots) == (6, 5, 3)
    assert settings.alias == ("x", "y")
    assert settings.allow_host == ("a", "b")
    assert (settings.drain, settings.low_memory) == (5.0, True)
    by_environment = gather({}, {"PUMICE_SERVE_CONFIG": str(file), "PUMICE_SERVE_LOW_MEMORY": "no"})
    assert (by_environment.port, by_environment.low_memory) == (1, False)


@pytest.mark.parametrize(
    ("given", "environment", "told"),
    [
        ({}, {}, "there is no bundle"),
        ({"port": "x"}, {}, "port is 'x', expected a whole number"),
        ({"port": 70_000}, {}, "port is 70000"),
        ({"slots": 0}, {}, "slots is 0, expected 1 or more"),
        ({"deadline": "nan"}, {}, "deadline is nan"),
        ({"deadline": "inf"}, {}, "deadline is inf"),
        ({}, {"PUMICE_SERVE_NO_KEY": "perhaps"}, "no_key is 'perhaps', expected true or false"),
        ({"log_format": "xml"}, {}, "expected text or json"),
        ({"uds": "a", "fd": 3}, {}, "both uds and fd"),
        ({"host": "0.0.0.0"}, {}, "there is no key"),
        ({"host": "192.168.1.2"}, {}, "there is no key"),
        ({"host": "example.org"}, {}, "there is no key"),
    ],
)
def test_what_is_refused(given: dict[str, Any], environment: dict[str, str], told: str) -> None:
    bundle = {} if told == "there is no bundle" else {"bundle": "b"}
    with pytest.raises(UsageError) as refused:
        gather({**bundle, **given}, environment)
    assert told in str(refused.value)


@pytest.mark.parametrize(
    ("given", "environment"),
    [
        ({"host": "0.0.0.0", "no_key": True}, {}),
        ({"host": "::", "api_key_file": "keys"}, {}),
        ({"host": "0.0.0.0"}, {"PUMICE_SERVE_API_KEY": "k"}),
        ({"host": "0.0.0.0", "uds": "/run/x"}, {}),
        ({"host": "::1"}, {}),
        ({"host": "localhost"}, {}),
        ({"host": "127.0.0.5"}, {}),
    ],
)
def test_hosts_that_are_allowed(given: dict[str, Any], environment: dict[str, str]) -> None:
    assert gather({"bundle": "b", **given}, environment).bundle == Path("b")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("port = ", "cannot be read"),
        ("prot = 1", "unknown setting 'prot'"),
        ('api-key = "x"', "a key does not stand in --config"),
        ('port = "eighty"', "port is 'eighty'"),
        ("host = 5", "host is 5, expected text"),
        ("alias = [1]", "alias is 1, expected text"),
        ("slots = true", "slots is True"),
        ("slots = 1.5", "slots is 1.5"),
        (None, "cannot be read"),
    ],
)
def test_files_that_are_refused(tmp_path: Path, content: str | None, told: str) -> None:
    file = tmp_path / "serve.toml"
    if content is not None:
        file.write_text(content)
    with pytest.raises(UsageError) as refused:
        gather({"bundle": "b"}, {}, file)
    assert told in str(refused.value)


def test_every_setting_is_a_flag() -> None:
    args = vars(parse(["serve", "b"]))
    assert {each.name for each in FLAGS} < set(args)
    words = ["--port", "9", "--alias", "x", "--alias", "y", "--no-key", "--max-body", "5000", "--slots", "2"]
    given = {k: v for k, v in vars(parse(["serve", "b", *words])).items() if k in {f.name for f in FLAGS}}
    settings = gather({"bundle": "b", **given}, {})
    assert (settings.port, settings.alias, settings.no_key) == (9, ("x", "y"), True)
    assert (settings.max_body, settings.slots) == (5000, 2)
    plain = gather({k: v for k, v in args.items() if k in {f.name for f in FLAGS} | {"bundle"}}, {})
    assert plain == Settings(bundle=Path("b"))
