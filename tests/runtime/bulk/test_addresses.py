"""Nothing is fetched in bulk, whatever an address looks like."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pumice.cli.main import main
from tests.runtime.canary import canary, hostile

HELD_OUT = Path(__file__).parents[3] / "pebble" / "heldout"


def test_no_address_is_ever_asked(pebble_bundle: Path, tmp_path: Path) -> None:
    with canary() as bird:
        urls = hostile(bird.port)
        assert len(set(urls)) >= 60
        records: list[dict[str, Any]] = [
            {"id": "good", "image": str(HELD_OUT / "stop-sign.png"), "prompt": "What?"}
        ]
        for i, url in enumerate(urls):
            part = {"type": "image_url", "image_url": {"url": url}}
            inside = [{"role": "user", "content": [part, {"type": "text", "text": "What?"}]}]
            records += [
                {"id": f"{i}", "image": url, "prompt": "What?"},
                {"id": f"{i} inside", "messages": inside},
            ]
        file, output = tmp_path / "records.jsonl", tmp_path / "answers.jsonl"
        file.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
        assert (
            main(["batch", str(pebble_bundle), str(file), "-o", str(output), "-q", "--max-new-tokens", "2"])
            == 0
        )
        answers = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
        assert len(answers) == len(records)
        assert [answer["id"] for answer in answers if answer.get("error") is None] == ["good"]
        assert bird.hits == 0
