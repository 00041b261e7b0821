"""What a checkpoint's own card, and the place where it lies, say of its origin.

Enters: a checkpoint's folder. Leaves: its licence, its id on the hub; None where that is not known.
"""

from __future__ import annotations

from pathlib import Path

from pumice.manifest import License
from pumice.manifest.card import CARD_NAME, MOST_CARD_BYTES, front_matter, license_of
from pumice.manifest.hub_id import is_hub_id
from pumice.manifest.regular_file import read_regular


def license_in(folder: Path) -> License | None:
    """What the front matter of `README.md` names; a damaged card names none."""
    try:
        card = read_regular(folder / CARD_NAME, MOST_CARD_BYTES)
    except OSError:
        return None
    return license_of(front_matter(card.decode(errors="replace")))


def base_model_of(folder: Path) -> str | None:
    """`org/name` of a folder in the hub's cache: `…/models--org--name/snapshots/<commit>`."""
    snapshots = folder.absolute().parent
    kind, _, name = snapshots.parent.name.partition("--")
    found = name.replace("--", "/")
    return found if snapshots.name == "snapshots" and kind == "models" and is_hub_id(found) else None
