"""Model cards: what they say, what hostile names cannot make of them, and how edited ones are told."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pumice.manifest import License, Manifest, decode_manifest
from pumice.manifest.card import front_matter, has_own_card, is_own, license_of, render
from pumice.manifest.hub_id import is_hub_id
from pumice.manifest.schema import AppliedAdapter

MANIFEST = decode_manifest(
    (Path(__file__).parents[3] / "docs" / "manifests" / "llava-1.5.json").read_bytes(), "the example"
)
HOSTILE = [
    "x\n---\nlicense: mit",
    'a: "b',
    "<script>alert(1)</script>",
    "`</code><img src=x onerror=alert(1)>`",
    "a` <b>x</b> ![y](z) `b",
    "--> <b>",
    "<!-- ",
    "]] | a | b |",
    "\u202eevil\u2028# heading",
    "![x](javascript:alert(1))",
    "{{ 7 * 7 }}",
    "!!python/object/apply:os.system [id]",
    "&a [*a, *a]",
    "",
    " " * 9,
    "\\",
]


def told(text: str) -> Manifest:
    """A manifest that says `text` wherever it may."""
    source = dataclasses.replace(
        MANIFEST.source,
        checkpoint=text,
        model_type=text,
        vision_model_type=text,
        text_model_type=text,
        dtype=text,
        base_model=text,
        license=License(id=text, name=text, link=text),
        adapters=(AppliedAdapter(adapter=text, scale=0.5, config_sha256="0" * 64, weights_sha256="0" * 64),),
    )
    parity = {
        "verdict": text,
        "meaning": text,
        "judged_by": text,
        "cases": text,
        "kl": text,
        "text": {"kl": text},
    }
    return dataclasses.replace(
        MANIFEST,
        source=source,
        precision=dataclasses.replace(MANIFEST.precision, name=text, recipe=text, float_type=text, bits=4),
        requires=dataclasses.replace(MANIFEST.requires, onnxruntime=text),
        created_with={text: text},
        parity=parity,
    )


def test_a_card_says_what_the_manifest_says() -> None:
    source = dataclasses.replace(
        MANIFEST.source, base_model="llava-hf/llava-1.5-7b-hf", license=License(id="llama2")
    )
    card = render(dataclasses.replace(MANIFEST, source=source)).decode()
    assert front_matter(card) == {
        "library_name": "pumice",
        "pipeline_tag": "image-text-to-text",
        "base_model": "llava-hf/llava-1.5-7b-hf",
        "license": "llama2",
        "tags": "",
    }
    assert "Not compared with the checkpoint" in card
    assert "pumice run . -i image.png" in card
    assert "pip install 'pumice[cpu]'" in card
    assert render(MANIFEST) == render(MANIFEST)


def test_on_the_hub_it_says_how_to_run_it_from_there() -> None:
    card = render(MANIFEST, "org/name").decode()
    assert "    pip install 'pumice[cpu,hub]'\n    pumice run org/name -i image.png" in card


def test_what_is_not_known_is_left_out() -> None:
    card = render(MANIFEST).decode()
    assert not {"license", "base_model"} & front_matter(card).keys()
    assert "names none" in card


def test_parity_is_told() -> None:
    parity = {
        "verdict": "near",
        "meaning": "answers are float32's",
        "judged_by": "prompts",
        "cases": 6,
        "same_input_ids": 6,
        "same_pixel_values": 6,
        "same_tokens": 5,
        "kl": 0.0123,
        "top1": 0.987,
        "text": {"perplexity": 12.5, "reference_perplexity": 12.25, "kl": 0.02},
    }
    card = render(dataclasses.replace(MANIFEST, parity=parity)).decode()
    for line in (
        "says **near**: answers are float32's",
        "- same greedy tokens: 5 of 6 prompts",
        "- KL of the next token: 0.0123 nats; most likely token the same: 98.7%",
        "- perplexity of texts: 12.5, the checkpoint's is 12.2; KL 0.02 nats",
    ):
        assert line in card


@pytest.mark.export_extra
@pytest.mark.parametrize("text", HOSTILE)
def test_no_name_reaches_yaml_or_html(text: str) -> None:
    """By the parsers that the hub's client and rich use."""
    import yaml
    from markdown_it import MarkdownIt

    card = render(told(text)).decode()
    head, body = re.fullmatch(r"---\n(.*?)\n---\n(.*)", card, re.DOTALL).groups()  # type: ignore[union-attr]
    data = yaml.safe_load(head)
    assert data.keys() <= {"library_name", "pipeline_tag", "tags"}
    assert data["tags"] == ["pumice", "onnx", "onnxruntime"]
    tokens = [
        t
        for block in MarkdownIt("gfm-like", {"linkify": False}).parse(body)
        for t in (block, *(block.children or ()))
    ]
    html = [token for token in tokens if "html" in token.type]
    assert [token.content for token in html] == [card.splitlines(keepends=True)[-1]]
    assert not {"link_open", "image", "hr"} & {token.type for token in tokens}
    headings = [token for token in tokens if token.type == "heading_open"]
    assert len(headings) == 5


@pytest.mark.export_extra
@given(st.text(max_size=60))
@example("0123456789" * 30)
def test_any_name_gives_a_card_of_the_same_shape(text: str) -> None:
    import yaml

    card = render(told(text)).decode()
    assert card.count("\n") == render(told("name")).decode().count("\n") - _known(text)
    assert yaml.safe_load(card.split("---\n")[1])["library_name"] == "pumice"
    assert is_own(card.encode())


def _known(text: str) -> int:
    """Lines of the front matter that `name` has and `text` has not."""
    card, other = (front_matter(render(told(t)).decode()) for t in ("name", text))
    tags = [render(told(t)).decode().split("---\n")[1].count("\n- ") for t in ("name", text)]
    return len(card) - len(other) + tags[0] - tags[1]


def test_an_edited_card_is_told(tmp_path: Path) -> None:
    card = render(MANIFEST)
    assert is_own(card)
    for edited in (
        card.replace(b"PyTorch", b"pytorch"),
        card + b"more\n",
        b"more\n" + card,
        card[: card.rindex(b"<!--")],
        b"",
        b"\n",
        card.removesuffix(b"\n")[:-5] + b" -->\n",
    ):
        assert not is_own(edited)
    assert not has_own_card(tmp_path)
    (tmp_path / "README.md").write_bytes(card)
    assert has_own_card(tmp_path)
    (tmp_path / "README.md").write_bytes(bytes(2 << 20))
    assert not has_own_card(tmp_path)


@pytest.mark.parametrize(
    ("card", "found"),
    [
        ("---\nlicense: mit\n---\n", License(id="mit")),
        ("---\r\nlicense: mit\r\n---\r\n", License(id="mit")),
        ("---\nlicense: 'apache-2.0' # see below\n---", License(id="apache-2.0")),
        ('---\nlicense: "mit"\n---\n', License(id="mit")),
        (
            "---\nlicense: other\nlicense_name: tongyi-qianwen\nlicense_link: https://hf.co/Qwen/LICENSE\n---\n",
            License(id="other", name="tongyi-qianwen", link="https://hf.co/Qwen/LICENSE"),
        ),
        ("---\nlicense: other\nlicense_link: javascript:alert(1)\n---\n", License(id="other")),
        ("---\nlicense: other\nlicense_name: <b>x</b>\n---\n", License(id="other")),
        ("---\nlicense: MIT\n---\n", None),
        ("---\nlicense:\n- mit\n---\n", None),
        ("---\nlicense: [mit]\n---\n", None),
        ("---\nlicense: mit\nlicense: other\n---\n", License(id="mit")),
        ("---\n license: mit\n---\n", None),
        ("---\nlicense: mit\n", None),
        ("license: mit\n", None),
        ("# Title\n\n---\nlicense: mit\n---\n", None),
        ("", None),
        ("---\n" + "a: " + " " * 200_000 + "x\n" * 200_000, None),
    ],
)
def test_licences_of_cards(card: str, found: License | None) -> None:
    assert license_of(front_matter(card)) == found


def test_hub_ids() -> None:
    for name in ("org/name", "llava-hf/llava-1.5-7b-hf", "a/b", "_a/b_", "1/2"):
        assert is_hub_id(name)
    for name in (
        *(
            "a",
            "./a/b",
            "/a/b",
            "a/b/c",
            "~/a",
            "../b",
            "a/..",
            "a/b/",
            "a//b",
            "a b/c",
            ".a/b",
            "a/.b",
            "",
            "/",
        ),
        *(
            "a--b/c",
            "a/b..c",
            "a/b.git",
            "-a/b",
            "a/b-",
            "a/b.",
            "a/ä",
            "a/b\n",
            "a/b\0",
            "a/" + "b" * 95,
            "a\\b/c",
        ),
    ):
        assert not is_hub_id(name)
