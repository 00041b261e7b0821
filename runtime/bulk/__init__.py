"""Many records through one engine: `pumice batch`, and the same for programs. docs/batch.md has how to use it.

inputs.py ──▶ request.py ──▶ window.py ───▶ journal.py ──▶ output.py
entries       what each      the engine,    finished       a .jsonl, or
              one asks       bounded        records        parquet.py
"""

from pumice.bulk.record import Failure, Record
from pumice.bulk.window import run_batch

__all__ = ["Failure", "Record", "run_batch"]
