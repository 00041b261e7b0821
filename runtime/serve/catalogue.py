"""Which bundles a server has, and what is known of each before it is loaded.

Enters: settings. Leaves: an `Offer` for each bundle, with its names, what its manifest says, and what it needs of
memory; of one that cannot be opened, why.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from pumice.bundle.footprint import ENCODED_AT_ONCE
from pumice.bundle.plan import MemoryPlan, default_slot_context, plan
from pumice.errors import BundleError, PumiceError, UsageError
from pumice.machine.memory import available_memory
from pumice.manifest import MANIFEST_NAME, Manifest, load_manifest
from pumice.manifest.regular_file import named
from pumice.serve.settings import Settings


@dataclass(frozen=True, kw_only=True)
class About:
    """What a bundle says of itself. `created` is when it was exported, in seconds since 1970.

    `context` is what a prompt and its answer may have together; None where that shows only once it is loaded.
    """

    name: str
    aliases: tuple[str, ...]
    path: Path
    manifest: Manifest
    created: int
    context: int | None

    @cached_property
    def digest(self) -> str:
        """SHA-256 of what it consists of."""
        hashes = sorted(entry.sha256 for entry in self.manifest.files.values())
        return hashlib.sha256("".join(hashes).encode()).hexdigest()

    @cached_property
    def size(self) -> int:
        """Bytes of its files."""
        return sum(entry.size for entry in self.manifest.files.values())

    @property
    def template(self) -> str:
        """The chat template; empty if there is none."""
        file = self.manifest.chat.template_file
        return "" if file is None else (self.path / file).read_text(encoding="utf-8")


@dataclass(frozen=True, kw_only=True)
class Offer:
    """A bundle of the server: `settings` are the server's for this bundle alone, whose name and aliases they have.

    `plan` is what it may take of memory, None where nothing is planned; `failure` why it cannot be opened.
    """

    settings: Settings
    about: About | None = None
    plan: MemoryPlan | None = None
    failure: PumiceError | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """All by which it can be asked for, its own first."""
        return (self.settings.name, *self.settings.alias)


@dataclass(frozen=True, kw_only=True)
class Catalogue:
    """All bundles, and the bytes that they may have together; None where that is unknown, or nobody asks."""

    offers: tuple[Offer, ...]
    budget: int | None


def read_catalogue(settings: Settings) -> Catalogue:
    """All bundles of the settings, in their order. One alone is only read where it has a budget.

    Raises:
        UsageError: two bundles of a name, an alias of none of them, or no folder where one of several should be.
        PumiceError: there are several, and none of them can be opened.
    """
    paths = [path for given in (settings.bundle, *settings.others) for path in bundles_of(given)]
    each = [replace(settings, bundle=path, others=(), alias=()) for path in paths]
    aliases = _aliases(settings, [one.name for one in each])
    each = [replace(one, alias=aliases[one.name]) for one in each]
    if len(each) == 1 and settings.memory is None:
        return Catalogue(offers=(Offer(settings=each[0]),), budget=None)
    if missing := [one.bundle for one in each if not one.bundle.is_dir()]:
        raise UsageError(f"there is no folder {str(missing[0])!r}: expected bundles, or folders of bundles")
    budget = settings.memory if settings.memory is not None else _available(settings.device)
    offers = tuple(read_offer(one, budget) for one in each)
    failures = [offer.failure for offer in offers if offer.failure is not None]
    if len(failures) == len(offers):
        raise failures[0]
    return Catalogue(offers=offers, budget=budget)


def bundles_of(path: Path) -> list[Path]:
    """The path itself, or the bundles in it: folders with a manifest in one that has none."""
    path = named(path)
    if not path.is_dir() or (path / MANIFEST_NAME).exists():
        return [path]
    return sorted(each.parent for each in path.glob(f"*/{MANIFEST_NAME}")) or [path]


def about(settings: Settings, manifest: Manifest, path: Path, context: int | None) -> About:
    """What is known of a bundle by its manifest."""
    return About(
        name=settings.name,
        aliases=settings.alias,
        path=path,
        manifest=manifest,
        created=int((path / MANIFEST_NAME).stat().st_mtime),
        context=context,
    )


def planned(settings: Settings, manifest: Manifest, budget: int | None) -> MemoryPlan:
    """What a bundle takes with all its slots, whose context is as long as half of what weights leave of the budget."""
    from pumice.bundle.folder import bundle_folder
    from pumice.bundle.optimized import find

    whole = manifest.decoder.context_length
    images = min(ENCODED_AT_ONCE, max(1, settings.max_images))
    optimized = find(bundle_folder(settings.bundle)) is not None

    def with_context(tokens: int) -> MemoryPlan:
        return plan(
            manifest,
            context=tokens,
            batch=settings.slots,
            images=images,
            low_memory=settings.low_memory,
            optimized=optimized,
            available=budget,
        )

    context = min(settings.context_length or whole, whole)
    if budget is not None:
        room = max(0, budget - with_context(1).total)
        context = min(context, default_slot_context(manifest, settings.slots, room))
    return with_context(context)


def read_offer(settings: Settings, budget: int | None) -> Offer:
    """One bundle, by its manifest; raises nothing."""
    try:
        path = settings.bundle
        manifest = load_manifest(path)
        needed = planned(settings, manifest, budget)
        return Offer(
            settings=settings,
            about=about(settings, manifest, path, needed.context),
            plan=needed,
        )
    except PumiceError as error:
        return Offer(settings=settings, failure=error)
    except OSError as error:
        return Offer(settings=settings, failure=BundleError(f"{settings.bundle}: {error.strerror}"))


def _available(device: str) -> int | None:
    from pumice.sessions.device import choose_device

    return available_memory(choose_device(device))


def _aliases(settings: Settings, names: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Each bundle's other names, of `NAME` where there is one bundle, else of `NAME=BUNDLE`."""
    if repeated := [name for name, count in Counter(names).items() if count > 1]:
        raise UsageError(
            f"{len(names)} bundles are given, and two of them are called {repeated[0]!r}: rename a folder"
        )
    found: dict[str, tuple[str, ...]] = dict.fromkeys(names, ())
    taken = set(names)
    for text in settings.alias:
        alias, _, name = text.rpartition("=")
        if not alias or name not in found:
            alias, name = text, names[0]
            if len(names) > 1:
                raise UsageError(
                    f"alias is {text!r}, expected NAME=BUNDLE with one of {', '.join(map(repr, names))}"
                )
        if len(names) > 1 and alias in taken:
            raise UsageError(f"alias is {text!r}, and {alias!r} is the name of a model already: take another")
        taken.add(alias)
        found[name] = (*found[name], alias)
    return found
