"""Many records through one engine: `pumice batch`, and the same for programs. docs/batch.md has how to use it.

Enters: a folder of images, one image, or a file of records. Leaves: a file of records, whole whenever the process ends.

    inputs ──▶ item ──▶ window ──▶ journal ──▶ output
    entries    what each    the engine,   finished    a .jsonl, .csv
               one asks     bounded       records     or .parquet
"""

from pumice.bulk.formats import write_records
from pumice.bulk.record import Failure, Record
from pumice.bulk.window import run_batch

__all__ = ["Failure", "Record", "run_batch", "write_records"]
