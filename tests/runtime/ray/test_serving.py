"""`serve_app` up to where Ray takes over: settings, and options of the deployment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import pumice.ray
from pumice import UsageError
from pumice.ray.serving import ray_options, replica_settings, serve_app


def settings_of(bundle: str | Path = "bundle", num_cpus: float = 1, **settings: Any) -> Any:
    return replica_settings(bundle, num_cpus=num_cpus, settings=settings)


def test_public_names() -> None:
    assert pumice.ray.serve_app is serve_app
    assert all(getattr(pumice.ray, name) for name in pumice.ray.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = pumice.ray.nothing


def test_a_folder_here_is_named_as_from_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "llava").mkdir()
    monkeypatch.chdir(tmp_path)
    assert settings_of("llava").bundle == tmp_path / "llava"
    assert settings_of("/mnt/models/elsewhere").bundle == Path("/mnt/models/elsewhere")
    assert settings_of("llava").name == "llava"
    both = settings_of(["llava", Path("/mnt/models/elsewhere")])
    assert (both.bundle, both.others) == (tmp_path / "llava", (Path("/mnt/models/elsewhere"),))


def test_threads_follow_the_cpus_of_a_replica() -> None:
    assert [settings_of(num_cpus=cpus).threads for cpus in (0.5, 1, 4)] == [1, 1, 4]
    assert settings_of(num_cpus=4, threads=2).threads == 2


def test_settings_of_the_server_are_taken_and_the_environment_is_not(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PUMICE_SERVE_SLOTS", "77")
    chosen = settings_of(slots=4, max_queue=10, alias=["gpt-4o"], api_key_file=tmp_path / "keys")
    assert (chosen.slots, chosen.max_queue, chosen.alias) == (4, 10, ("gpt-4o",))
    assert chosen.api_key_file == tmp_path / "keys"
    assert settings_of().slots == 8


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"port": 80}, "'port' is Ray's own matter"),
        ({"uds": "socket"}, "'uds' is Ray's own matter"),
        ({"slotss": 3}, "'slotss' is unknown"),
        ({"others": ["a"]}, "'others' is unknown"),
        ({"slots": 0}, "slots is 0"),
        ({"slots": "many"}, "slots is 'many'"),
        ({"host": "0.0.0.0"}, "there is no key"),
    ],
)
def test_bad_settings(settings: dict[str, Any], complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        settings_of(**settings)


def test_off_this_machine_with_keys_or_for_anybody() -> None:
    assert settings_of(host="0.0.0.0", no_key=True).no_key
    assert settings_of(host="0.0.0.0", api_key_file="keys").host == "0.0.0.0"


def test_options_follow_from_settings() -> None:
    chosen = settings_of(slots=4, max_queue=10, drain=45)
    options = ray_options(chosen, num_replicas=2, retry_after=5)
    assert options.pop("request_router_config")["request_router_class"].endswith(".ConsistentHashRouter")
    assert options == {
        "num_replicas": 2,
        "max_ongoing_requests": 6,
        "max_queued_requests": 10,
        "graceful_shutdown_timeout_s": 45.0,
        "backpressure_config": {"status_code": 429, "retry_after_s": 5},
    }
    scaled = ray_options(chosen, num_replicas=(1, 8), retry_after=5)
    assert scaled["autoscaling_config"]["target_ongoing_requests"] == 3.0


@pytest.mark.parametrize("wrong", [-1, float("nan"), float("inf"), "5", None])
def test_other_seconds_to_wait_are_refused(wrong: Any) -> None:
    with pytest.raises(UsageError, match="retry_after is"):
        ray_options(settings_of(), num_replicas=1, retry_after=wrong)


def test_without_ray_serve_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ray.serve", None)
    with pytest.raises(UsageError, match=r"pip install 'pumice\[ray-serve\]'"):
        serve_app("bundle")
