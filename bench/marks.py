"""Generated parts of pages: what stands between two comments is replaced, the rest stays.

<!-- table -->
written by a command
<!-- /table -->
"""

from __future__ import annotations

from pathlib import Path


def replace_part(page: Path, name: str, text: str) -> None:
    """Put `text` between the marks `<!-- name -->` and `<!-- /name -->` of a page.

    Raises:
        ValueError: the page does not have both of them once, in this order.
    """
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    old = page.read_text(encoding="utf-8")
    before, _, rest = old.partition(begin)
    if old.count(begin) != 1 or old.count(end) != 1 or end not in rest:
        raise ValueError(f"{page} should have {begin} and then {end}, once each")
    after = rest.partition(end)[2]
    page.write_text(f"{before}{begin}\n{text}\n{end}{after}", encoding="utf-8")
