"""Texts to score a language model by: six kinds, the same on every machine with the same Python.

Leaves: each kind's text, long enough for `windows.POSITIONS`. None depends on what is installed.

    prose      English of seven sorts (`prose.txt`)                   written for this test; the project's licence
    languages  German, French, Spanish, Italian, Portuguese, Polish,  written for this test; the project's licence
               Russian, Chinese (`languages.txt`)
    code       Python's `graphlib.py` and `bisect.py`                 PSF-2.0, with Python
    json       HTTP's status codes as Python knows them               PSF-2.0, with Python
    licence    this repository's LICENSE: the Apache licence 2.0      may be copied verbatim
    manual     chapters of Python's reference manual, of `pydoc_data` PSF-2.0, with Python

No model can have read the first two. The others it may know by heart, as it will know much of what it is asked to read.
Nothing may be calibrated on any of them.
"""

from __future__ import annotations

import json
import sys
from http import HTTPStatus
from pathlib import Path

_HERE = Path(__file__).parent
_MODULES = ("graphlib", "bisect")
_CHAPTERS = ("try", "with")


def texts() -> dict[str, str]:
    """Every kind's text."""
    return {
        "prose": _read(_HERE / "prose.txt"),
        "languages": _read(_HERE / "languages.txt"),
        "code": _code(),
        "json": _json(),
        "licence": _read(_HERE.parents[1] / "LICENSE"),
        "manual": _manual(),
    }


def _read(file: Path) -> str:
    return file.read_text(encoding="utf-8")


def _code() -> str:
    """Sources of the standard library; by their files, as an interpreter may have compiled ones loaded."""
    import bisect  # any module of it whose file is there

    assert bisect.__file__ is not None
    folder = Path(bisect.__file__).parent
    return "\n\n".join(_read(folder / f"{name}.py") for name in _MODULES)


def _json() -> str:
    """Status codes, as a server would tell them."""
    codes = [
        {"status": code.value, "name": code.name, "title": code.phrase, "detail": code.description or None}
        for code in HTTPStatus
    ]
    return json.dumps({"version": "HTTP/1.1", "codes": codes}, indent=2)


def _manual() -> str:
    from pydoc_data.topics import topics

    return "\n\n".join(topics[name] for name in _CHAPTERS)


def python_version() -> str:
    """What `code`, `json` and `manual` depend on: `3.11`, say."""
    return f"{sys.version_info.major}.{sys.version_info.minor}"
