"""Cases made of OpenAI's own schema, right ones and wrong ones: never 5xx, and every answer is valid against it.

schemathesis makes them, in the environment that `make serve-check` installs into build/serving.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.runtime.serve.running import data_uri, png
from tests.serving.bounds import Bounds
from tests.serving.figures import Figure
from tests.serving.openai_cut import CUT
from tests.serving.process import served

HERE = Path(__file__).parent
COMMAND = Path(os.environ.get("SCHEMATHESIS", HERE.parents[1] / "build" / "serving" / "bin" / "schemathesis"))


def run(bundle: Path, bounds: Bounds) -> Iterator[Figure]:
    """Half of the cases for a route each, and those of the coverage phase beside them."""
    with served(bundle, "--slots", 4, "--context-length", 512) as server:
        counts, code, output = _cases(server.port, bundle.name, int(bounds.contract))
        failed = sum(count for status, count in counts.items() if status.isdigit() and int(status) >= 500)
        yield Figure(check="contract", what="cases", value=counts.get("cases", 0), least=bounds.contract)
        yield Figure(
            check="contract", what="… of chats", value=counts.get("chat", 0), least=bounds.contract // 2
        )
        for status in sorted(status for status in counts if status.isdigit()):
            yield Figure(check="contract", what=f"… answered {status}", value=counts[status])
        yield Figure(check="contract", what="… of them streams", value=counts.get("streamed", 0), least=1)
        yield Figure(check="contract", what="5xx", value=failed, most=0)
        yield Figure(
            check="contract", what="not valid against OpenAI's schema", value=counts.get("invalid", 0), most=0
        )
        yield Figure(check="contract", what="schemathesis' exit code", value=code, most=0, least=0)
        if code:
            print(output[-6000:])
        yield Figure(check="contract", what="the server's exit code", value=server.end(), most=0, least=0)


def _cases(port: int, model: str, count: int) -> tuple[Mapping[str, int], int, str]:
    with tempfile.TemporaryDirectory() as folder:
        told = Path(folder) / "counts.json"
        environment = {
            "SCHEMATHESIS_HOOKS": "contract_hooks",
            "PYTHONPATH": str(HERE),
            "PUMICE_CONTRACT": str(told),
            "PUMICE_CONTRACT_SCHEMA": str(CUT),
            "PUMICE_CONTRACT_MODEL": model,
            "PUMICE_CONTRACT_IMAGE": data_uri(png()),
        }
        # Its own check of schemas takes a stream's event for the chunk inside: `is_openais` looks into it.
        checks = "not_a_server_error,content_type_conformance,is_openais"
        how = {
            "--url": f"http://127.0.0.1:{port}/v1",
            "--checks": checks,
            "--max-examples": str(count // 2),
            "--phases": "coverage,fuzzing",
            "--mode": "all",
            "--seed": "16",
            "--suppress-health-check": "all",
            "--warnings": "off",
        }
        done = subprocess.run(
            [
                COMMAND,
                "run",
                CUT,
                *(word for pair in how.items() for word in pair),
                "--continue-on-failure",
                "--no-shrink",
            ],
            env={**os.environ, **environment},
            cwd=folder,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        counts = json.loads(told.read_text()) if told.exists() else {}
    return counts, done.returncode, done.stdout
