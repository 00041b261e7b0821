"""A whole run: inputs on disk to an output on disk, begun or gone on with.

Enters: a bundle, a JSONL file or a folder of images, and where the output goes. Leaves: the output; or, after
Ctrl-C, a kill or a full disk, a journal that the same call goes on from.
"""

from __future__ import annotations

import contextlib
import sys
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import msgspec

from pumice.bulk.entry import Entry, Inputs
from pumice.bulk.inputs import entries, open_inputs, scan
from pumice.bulk.item import BatchItem, Defaults, make_item
from pumice.bulk.journal import Journal
from pumice.bulk.output import Output
from pumice.bulk.places import check_apart
from pumice.bulk.plan import Plan, Step, Wish
from pumice.bulk.progress import Progress
from pumice.bulk.provenance import Provenance, digest_of
from pumice.bulk.record import Record, failed
from pumice.bulk.trial import check_workable, tried
from pumice.bulk.window import Submitter, answer_all
from pumice.errors import BatchError, PumiceError, UsageError


@dataclass(frozen=True, kw_only=True)
class Run:
    """What to run. `prompt`, `raw` and `options` hold for inputs that do not say otherwise."""

    bundle: Path
    inputs: Path
    output: Path
    prompt: str | None = None
    raw: bool = False
    options: Mapping[str, Any]
    slots: int = 8
    context: int | None = None
    """Tokens of a prompt and its answer together; None for the model's."""
    device: str = "auto"
    threads: int | None = None
    overwrite: bool = False
    """Begin anew where the output is finished, or another run's; an unfinished run of these settings goes on."""
    restart: bool = False
    """Begin anew whatever is there."""
    retry_errors: bool = False


@dataclass(frozen=True, kw_only=True)
class Summary:
    """A finished output: its records, how many of them are errors, and what was done for it now."""

    records: int
    failed: int
    work: str | None
    """Numbers and speeds in words; None if there was nothing to do."""
    kept: int = 0
    """Records that were answered before failed ones were tried again."""


def run_files(run: Run, report: TextIO | None = None) -> Summary:
    """Answer all inputs that are not answered yet; `report` (standard error) shows how far it has come.

    A run that cannot work ends before a model is loaded, or at the latest before anything is written.

    Raises:
        UsageError: paths or options that will not do.
        BatchError: inputs that cannot be read or have changed, an output that cannot be written or is another run's.
        BundleError, DeviceError: as `pumice.load`.
        KeyboardInterrupt: Ctrl-C; the journal can be gone on from.
    """
    out = sys.stderr if report is None else report
    output = Output(run.output)
    own = frozenset(place.parent.resolve() / place.name for place in output.places)
    inputs = open_inputs(run.inputs, own)
    check_apart(run.inputs, output.places)
    output.check_places()
    wish = Wish(overwrite=run.overwrite, restart=run.restart, retry_errors=run.retry_errors)
    with contextlib.ExitStack() as stack:
        journal = None if output.settled else stack.enter_context(output.hold())
        provenance = _provenance(run, inputs)
        if inputs.passed_over:
            print(f"pumice: passed over {inputs.passed_over}", file=out)
        plan = output.plan(provenance, wish)
        if journal is None and plan.step is not Step.NOTHING:
            journal = stack.enter_context(output.hold())
            plan = output.plan(provenance, wish)  # of what another process did meanwhile
        if journal is None or plan.step is Step.NOTHING:
            errors = sum(record.error is not None for record in output.records())
            return Summary(records=provenance.inputs.records, failed=errors, work=None)
        return _answer(run, inputs, output, plan, journal, out)


def _answer(run: Run, inputs: Inputs, output: Output, plan: Plan, journal: Journal, out: TextIO) -> Summary:
    """All that is left to do of a plan."""
    if plan.step is Step.BEGIN:
        check_workable(inputs, _defaults(run, inputs))
    output.stage(plan, journal)
    start = 0 if plan.step is Step.BEGIN else journal.records
    kept: deque[int] = deque()
    with _engine(run) as engine:
        items = _items(run, inputs, output, plan, start, kept)
        records = answer_all(engine, items, in_flight=2 * run.slots)
        total = plan.provenance.inputs.records
        progress = Progress(out, total=total, done=start, failed=journal.failed if start else 0)
        if start == 0:
            records = tried(records)
        output.begin(plan, journal)
        _work(records, journal, progress, kept)
    output.finish(plan, journal)
    return Summary(
        records=journal.records, failed=journal.failed, work=progress.summary(), kept=progress.kept
    )


def _provenance(run: Run, inputs: Inputs) -> Provenance:
    from pumice.manifest import load_manifest

    return Provenance(
        bundle=digest_of(load_manifest(run.bundle)),
        inputs=scan(inputs),
        prompt=run.prompt,
        raw=run.raw,
        options=msgspec.json.decode(msgspec.json.encode(dict(run.options))),
    )


def _engine(run: Run) -> contextlib.AbstractContextManager[Submitter]:
    """The engine, after a look at the options: what is wrong with all records is no record's fault."""
    from pumice.engine import Engine
    from pumice.loading import load

    model = load(run.bundle, device=run.device, threads=run.threads)
    model.wait()
    chosen = model.options(**run.options)
    rows = max(chosen.num_beams, chosen.num_return_sequences)
    if rows > run.slots:
        raise UsageError(
            f"{rows} answers or beams a record need as many slots, and there are {run.slots}: give --slots {rows}"
        )
    return Engine(model, slots=run.slots, context=run.context, max_queue=2 * run.slots)


def _work(records: Iterator[Record], journal: Journal, progress: Progress, kept: deque[int]) -> None:
    """Journal records as they come; `kept` has the numbers of those that were answered before."""
    try:
        for record in records:
            journal.append(record)
            was_there = bool(kept) and kept[0] == record.index
            if was_there:
                kept.popleft()
            tokens = record.completion_tokens or 0
            progress.add(failed=record.error is not None, tokens=tokens, kept=was_there)
    finally:
        progress.end()


def _defaults(run: Run, inputs: Inputs) -> Defaults:
    return Defaults(prompt=run.prompt, raw=run.raw, options=run.options, folder=inputs.folder)


def _items(
    run: Run, inputs: Inputs, output: Output, plan: Plan, start: int, kept: deque[int]
) -> Iterator[BatchItem | Record]:
    """What is left to do from input number `start` on; where errors are tried again, answers stand, and are noted as
    `kept`."""
    defaults = _defaults(run, inputs)
    finished = output.records() if plan.provenance.retry else None
    for entry in entries(inputs, plan.provenance.inputs):
        before = None if finished is None else _same(next(finished, None), entry, run.output)
        if entry.index < start:
            continue
        if before is not None and before.error is None:
            kept.append(entry.index)
            yield before
        else:
            yield _request(entry, defaults, entry.where if inputs.numbered else None)


def _same(record: Record | None, entry: Entry, output: Path) -> Record:
    if record is None or (record.index, record.id) != (entry.index, entry.id):
        raise BatchError(
            f"record {entry.index + 1} of {str(output)!r} was changed: begin anew with --overwrite"
        )
    return record


def _request(entry: Entry, defaults: Defaults, where: str | None) -> BatchItem | Record:
    if isinstance(entry.fields, PumiceError):
        return failed(entry.index, entry.id, entry.fields, where)
    try:
        return make_item(entry.index, entry.id, entry.fields, defaults, where)
    except UsageError as error:
        return failed(entry.index, entry.id, error, where)
