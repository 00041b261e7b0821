"""A whole run: inputs on disk to an output on disk, begun or gone on with.

Enters: a bundle, a JSONL file or a folder of images, and where the output goes. Leaves: the output; or, after
Ctrl-C, a kill or a full disk, a journal that the same call goes on from.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import msgspec

from pumice.bulk.inputs import Entry, Identity, Inputs, entries, open_inputs, scan
from pumice.bulk.item import BatchItem, Defaults, make_item
from pumice.bulk.journal import Journal
from pumice.bulk.output import Output
from pumice.bulk.progress import Progress
from pumice.bulk.provenance import Provenance, digest_of
from pumice.bulk.record import Record, failed
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
    retry_errors: bool = False


@dataclass(frozen=True, kw_only=True)
class Summary:
    """A finished output: its records, how many of them are errors, and what was done for it now."""

    records: int
    failed: int
    work: str | None
    """Numbers and speeds in words; None if there was nothing to do."""


def run_files(run: Run, report: TextIO | None = None) -> Summary:
    """Answer all inputs that are not answered yet; `report` (standard error) shows how far it has come.

    Raises:
        UsageError: paths or options that will not do.
        BatchError: inputs that cannot be read or have changed, an output that cannot be written or is another run's.
        BundleError, DeviceError: as `pumice.load`.
        KeyboardInterrupt: Ctrl-C; the journal can be gone on from.
    """
    out = sys.stderr if report is None else report
    output, inputs = Output(run.output), open_inputs(run.inputs)
    _check_paths(run)
    provenance = _provenance(run, scan(inputs))
    if output.finished(provenance, overwrite=run.overwrite, retry_errors=run.retry_errors):
        errors = sum(record.error is not None for record in output.records())
        return Summary(records=provenance.inputs.records, failed=errors, work=None)
    with contextlib.ExitStack() as stack:
        with _engine(run) as engine:
            journal = stack.enter_context(
                contextlib.closing(output.begin(provenance, overwrite=run.overwrite))
            )
            items = _items(run, inputs, provenance.inputs, output, journal.records)
            work = _work(
                answer_all(engine, items, in_flight=2 * run.slots), journal, provenance.inputs.records, out
            )
        output.finish(journal)
        return Summary(records=journal.records, failed=journal.failed, work=work)


def _check_paths(run: Run) -> None:
    """The output must not be written over what is read."""
    if run.output.resolve() == run.inputs.resolve():
        raise UsageError(f"the output {str(run.output)!r} is the input; expected another file")


def _provenance(run: Run, identity: Identity) -> Provenance:
    from pumice.manifest import load_manifest

    return Provenance(
        bundle=digest_of(load_manifest(run.bundle)),
        inputs=identity,
        prompt=run.prompt,
        raw=run.raw,
        options=msgspec.json.decode(msgspec.json.encode(dict(run.options))),
    )


def _engine(run: Run) -> contextlib.AbstractContextManager[Submitter]:
    """The engine, after a look at the options: what is wrong with all records is no record's fault."""
    from pumice.engine import Engine
    from pumice.loading import load

    model = load(run.bundle, device=run.device, threads=run.threads)
    chosen = model.options(**run.options)
    rows = max(chosen.num_beams, chosen.num_return_sequences)
    if rows > run.slots:
        raise UsageError(
            f"{rows} answers or beams a record need as many slots, and there are {run.slots}: give --slots {rows}"
        )
    return Engine(model, slots=run.slots, context=run.context, max_queue=2 * run.slots)


def _work(records: Iterator[Record], journal: Journal, total: int, out: TextIO) -> str:
    """Journal records as they come; what was done, in words."""
    progress = Progress(out, total=total, done=journal.records, failed=journal.failed)
    try:
        for record in records:
            journal.append(record)
            progress.add(failed=record.error is not None, tokens=record.completion_tokens or 0)
    finally:
        progress.end()
    return progress.summary()


def _items(
    run: Run, inputs: Inputs, identity: Identity, output: Output, start: int
) -> Iterator[BatchItem | Record]:
    """What is left to do from input number `start` on; records of a finished output stand, unless they are errors."""
    defaults = Defaults(prompt=run.prompt, raw=run.raw, options=run.options, folder=inputs.folder)
    finished = output.records() if output.exists else None
    for entry in entries(inputs, identity):
        before = None if finished is None else _same(next(finished, None), entry, run.output)
        if entry.index < start:
            continue
        if before is not None and before.error is None:
            yield before
        else:
            yield _request(entry, defaults)


def _same(record: Record | None, entry: Entry, output: Path) -> Record:
    if record is None or (record.index, record.id) != (entry.index, entry.id):
        raise BatchError(
            f"record {entry.index + 1} of {str(output)!r} was changed: begin anew with --overwrite"
        )
    return record


def _request(entry: Entry, defaults: Defaults) -> BatchItem | Record:
    if isinstance(entry.fields, PumiceError):
        return failed(entry.index, entry.id, entry.fields)
    try:
        return make_item(entry.index, entry.id, entry.fields, defaults)
    except UsageError as error:
        return failed(entry.index, entry.id, UsageError(f"{entry.where}: {error}"))
