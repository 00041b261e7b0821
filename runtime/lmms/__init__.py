"""A bundle as a model of lmms-eval's: `python -m lmms_eval --model pumice --model_args pretrained=BUNDLE …`.

Enters: requests of lmms-eval's tasks, and the documents that they are about. Leaves: answers, and losses of given ones.
Doors: `manifest` (the entry point), `model` (the classes that lmms-eval makes). lmms-eval imports them; nothing else of
pumice does, and `model` alone imports lmms-eval.
"""

from __future__ import annotations

from typing import Any


def manifest() -> Any:
    """What lmms-eval's registry asks of the entry point `lmms_eval.models`: where the classes are."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(
        model_id="pumice",
        chat_class_path="pumice.lmms.model.Pumice",
        simple_class_path="pumice.lmms.model.PumiceSimple",
    )
