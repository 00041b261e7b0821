"""What a run makes of what lies at its output already. Nothing is read or written here.

Enters: what is there, what is wanted. Leaves: a `Plan`, or a typed error that says what to do.

    records of an unfinished run     finished output     the run
    of the same settings             –                   goes on, also with --overwrite
    of the same settings, a retry    its own             goes on; begins anew with --overwrite
    none                             its own             finished; --retry-errors, --overwrite begin
    of other settings, or of whom    of other settings   refused; begins anew with --overwrite
    whatever                         whatever            begins anew with --restart
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from pumice.bulk.provenance import Provenance
from pumice.errors import BatchError


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What is to become of what is there: the command line's flags."""

    overwrite: bool = False
    restart: bool = False
    retry_errors: bool = False


@dataclass(frozen=True, kw_only=True)
class There:
    """What is there: an output's stamp, whether records of an unfinished run are, and what either is made from."""

    path: Path
    output: str | None
    journal: bool
    provenance: Provenance | None


class Step(Enum):
    """What is done."""

    NOTHING = "finished"
    GO_ON = "go on with the records that are there"
    BEGIN = "forget what is there, and begin"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is done, and the provenance to do it by; `provenance.retry` keeps answers of the finished output."""

    step: Step
    provenance: Provenance


def make_plan(there: There, wanted: Provenance, wish: Wish) -> Plan:
    """Decide, by the table above.

    Raises:
        BatchError: what is there belongs to another run.
    """
    found = there.provenance
    difference = None if found is None else wanted.difference(found)
    if there.journal and found is not None and difference is None and not _forgets(wish, found):
        return Plan(step=Step.GO_ON, provenance=found)
    if wish.overwrite or wish.restart:
        return Plan(step=Step.BEGIN, provenance=dataclasses.replace(wanted, replaces=there.output))
    if there.output is None and not there.journal:
        return Plan(step=Step.BEGIN, provenance=wanted)
    _refuse_others(there, found, difference)
    if wish.retry_errors:
        return Plan(step=Step.BEGIN, provenance=dataclasses.replace(wanted, retry=True))
    return Plan(step=Step.NOTHING, provenance=wanted)


def _forgets(wish: Wish, unfinished: Provenance) -> bool:
    """Whether records of an unfinished run of the same settings are not gone on with."""
    return wish.restart or (wish.overwrite and unfinished.retry)


def _refuse_others(there: There, found: Provenance | None, difference: str | None) -> None:
    name = str(there.path)
    if found is None:
        taken = name if there.output is not None else f"{name}.partial"
        raise BatchError(
            f"{taken!r} is there already, and no '{name}.run.json' says what it was made from: "
            "choose another output, or --overwrite"
        )
    if difference is None and there.output is not None and there.output == found.replaces:
        difference = "a run that was to overwrite it was stopped at its beginning"
    if difference is not None:
        raise BatchError(
            f"{name!r} belongs to another run ({difference}): "
            "give the same command, choose another output, or --overwrite"
        )
