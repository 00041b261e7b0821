"""Which bundles a server has, by its words alone: nothing is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pumice.cli.parsing import parse
from pumice.errors import SchemaVersionError, UsageError
from pumice.machine.memory import available_memory
from pumice.manifest import load_manifest
from pumice.serve.catalogue import bundles_of, read_catalogue
from pumice.serve.settings import FLAGS, Settings, gather

MIB = 2**20


def names(settings: Settings) -> list[tuple[str, ...]]:
    return [offer.names for offer in read_catalogue(settings).offers]


def test_a_folder_of_bundles_is_all_of_them(folder: Path, pebble_bundle: Path, tmp_path: Path) -> None:
    assert bundles_of(folder) == [folder / name for name in ("alpha", "beta", "gamma")]
    assert bundles_of(pebble_bundle) == [pebble_bundle]
    for none in (tmp_path, tmp_path / "missing", folder / "notes"):
        assert bundles_of(none) == [none]
    settings = Settings(bundle=pebble_bundle, others=(folder,))
    assert names(settings) == [(pebble_bundle.name,), ("alpha",), ("beta",), ("gamma",)]


def test_one_alone_is_not_looked_at(tmp_path: Path) -> None:
    """It is loaded as it always was, and says then what is wrong with it."""
    (offer,) = read_catalogue(Settings(bundle=tmp_path, alias=("x", "y=z"))).offers
    assert offer.names == (tmp_path.name, "x", "y=z")
    assert (offer.about, offer.plan, offer.failure) == (None, None, None)
    (tmp_path / "only").mkdir()
    (tmp_path / "only" / "manifest.json").write_text("{")
    assert names(Settings(bundle=tmp_path, alias=("x=only",))) == [("only", "x")]


@pytest.mark.parametrize(
    ("alias", "told"),
    [
        ("short", "alias is 'short', expected NAME=BUNDLE with one of 'alpha', 'beta', 'gamma'"),
        ("short=delta", "alias is 'short=delta', expected NAME=BUNDLE"),
        ("=alpha", "alias is '=alpha', expected NAME=BUNDLE"),
        ("beta=alpha", "'beta' is the name of a model already"),
    ],
)
def test_aliases_that_are_refused(folder: Path, alias: str, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        read_catalogue(Settings(bundle=folder, alias=(alias,)))


def test_names_are_of_one_bundle_each(folder: Path) -> None:
    aliases = ("a=alpha", "b=beta", "first=alpha", "x=y=gamma")
    expected = [("alpha", "a", "first"), ("beta", "b"), ("gamma", "x=y")]
    assert names(Settings(bundle=folder, alias=aliases)) == expected
    with pytest.raises(UsageError, match="4 bundles are given, and two of them are called 'beta'"):
        read_catalogue(Settings(bundle=folder, others=(folder / "beta",)))
    with pytest.raises(UsageError, match="'a' is the name of a model already"):
        read_catalogue(Settings(bundle=folder, alias=("a=alpha", "a=beta")))


def test_one_that_cannot_be_opened_says_why(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"schema_version": 999}')
    (tmp_path / "empty").mkdir()
    settings = Settings(bundle=folder, others=(tmp_path, tmp_path / "empty"))
    *good, newer, empty = read_catalogue(settings).offers
    assert [offer.failure for offer in good] == [None, None, None]
    assert isinstance(newer.failure, SchemaVersionError)
    assert "has no manifest.json" in str(empty.failure)
    assert newer.about is empty.about is None
    with pytest.raises(UsageError, match=r"there is no folder '.*missing'"):
        read_catalogue(Settings(bundle=folder, others=(tmp_path / "missing",)))


def test_plans_fill_half_of_what_weights_leave(folder: Path) -> None:
    """Of contexts that are not said; those that are said stay, but for what the model has."""
    whole = load_manifest(folder / "alpha").decoder.context_length
    budgets = [150 * MIB, 200 * MIB, 400 * MIB]
    plans = []
    for memory in budgets:
        catalogue = read_catalogue(Settings(bundle=folder, memory=memory, slots=4))
        assert catalogue.budget == memory
        for offer in catalogue.offers:
            assert offer.plan is not None
            assert offer.about is not None
            assert offer.about.context == offer.plan.context
            assert offer.plan.batch == 4
            assert offer.plan.total <= memory
        plans.append(catalogue.offers[0].plan)
    contexts = [plan.context for plan in plans if plan is not None]
    assert 1000 < contexts[0] < contexts[1] == contexts[2] == whole
    for length in (100, whole + 1):
        (offer, *_) = read_catalogue(Settings(bundle=folder, memory=budgets[2], context_length=length)).offers
        assert offer.plan is not None
        assert offer.plan.context == min(length, whole)


def test_the_budget_is_what_is_available_unless_it_is_said(folder: Path) -> None:
    available = available_memory()
    budget = read_catalogue(Settings(bundle=folder, device="cpu")).budget
    assert (budget is None) == (available is None)
    assert budget is None or available is None or abs(budget - available) < available


@pytest.mark.parametrize(
    ("given", "nbytes"),
    [
        ("150", 150),
        (2**33, 2**33),
        ("6GiB", 6 * 2**30),
        ("6g", 6 * 2**30),
        ("1.5 GB", 3 * 2**29),
        ("512MiB", 2**29),
        ("64k", 2**16),
        ("1TiB", 2**40),
    ],
)
def test_sizes_of_memory(given: Any, nbytes: int) -> None:
    assert gather({"bundle": "b", "memory": given}, {}).memory == nbytes
    assert gather({"bundle": "b"}, {"PUMICE_SERVE_MEMORY": str(given)}).memory == nbytes


@pytest.mark.parametrize("given", ["", "lots", "6 gigabytes", "-1", "1e9", True, 0, "0", "6GiB 5"])
def test_what_is_no_size(given: Any) -> None:
    with pytest.raises(UsageError, match="memory is"):
        gather({"bundle": "b"}, {}, _config(given))


@pytest.fixture(autouse=True)
def _files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def _config(memory: Any) -> Path:
    """A file of settings, in the test's own folder."""
    path = Path("serve.toml")
    path.write_text(f"memory = {str(memory).lower() if isinstance(memory, bool) else repr(memory)}\n")
    return path


def test_bundles_as_words_and_in_a_file(tmp_path: Path) -> None:
    args = vars(parse(["serve", "a", "--port", "1", "b", "--memory", "6GiB", "c", "--idle-unload", "300"]))
    known = {each.name for each in FLAGS} | {"bundle", "others"}
    settings = gather({name: value for name, value in args.items() if name in known}, {})
    assert (settings.bundle, settings.others) == (Path("a"), (Path("b"), Path("c")))
    assert (settings.memory, settings.idle_unload) == (6 * 2**30, 300.0)
    file = tmp_path / "settings.toml"
    file.write_text('bundle = ["x", "y"]\nidle-unload = "never"\nmemory = "1GiB"\n')
    settings = gather({}, {}, file)
    assert (settings.bundle, settings.others, settings.idle_unload) == (Path("x"), (Path("y"),), None)
    assert gather({"bundle": "z"}, {}, file).others == ()
    file.write_text('others = ["y"]\n')
    with pytest.raises(UsageError, match="unknown setting 'others'"):
        gather({"bundle": "z"}, {}, file)
    for value in ("soon", "-1", "nan"):
        with pytest.raises(UsageError, match="idle_unload is"):
            gather({"bundle": "z", "idle_unload": value}, {})
    for wrong in ([], [5]):
        file.write_text(f"bundle = {wrong}\n")
        with pytest.raises(UsageError, match="bundle"):
            gather({}, {}, file)
