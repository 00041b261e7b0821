"""python genai.py BUNDLE CASES: what examples/onnxruntime-genai makes of each case, a line of JSON each.

It runs in an environment of its own, where no pumice is.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "onnxruntime-genai"))
from answer import Client


def line_of(client: Client, case: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Ids, tokens by the client's own pixels and by those of pumice, and how far they lie apart.

    `example` is how far the pixels are that the example takes, which are not always the client's own.
    """
    found: dict[str, Any] = {}
    files = [Path(image) for image in case["images"]]
    made = client.pixels(files) if files else None
    sizes = [] if made is None else [made.shape[2:]] * len(files)
    ids = found["ids"] = client.ids(client.prompt(case["question"], len(files)), sizes)
    own = made if client.processor is None or not files else client.processor_pixels(files)
    found["own"] = list(client.stream(ids, own, case["most"]))
    if case["pixels"]:
        fed = np.fromfile(folder / case["pixels"], np.float32).reshape(case["shape"])
        found["fed"] = list(client.stream(ids, fed, case["most"]))
        found["pixels"] = float(np.abs(own - fed).mean())
        found["example"] = float(np.abs(made - fed).mean())
    return found


def main(bundle: str, cases: str) -> None:
    """A line for each case."""
    client = Client(Path(bundle))
    for case in json.loads((Path(cases) / "cases.json").read_text()):
        try:
            found = line_of(client, case, Path(cases))
        except Exception as error:  # told as the client tells it
            found = {"error": str(error)}
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
