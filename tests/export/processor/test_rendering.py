"""What is said of a template at export. Oracle: transformers' rendering, which the sources are chosen by."""

import logging
from pathlib import Path
from types import SimpleNamespace

import pytest

from pumice.errors import CheckpointError
from pumice.export.processor.rendering import check_template
from tests.runtime.prompt.templates import TEMPLATES

TOKENIZER = SimpleNamespace(bos_token="<s>", eos_token="</s>", unk_token=None, pad_token="<pad>")


@pytest.mark.parametrize("name", TEMPLATES)
def test_templates_that_are_rendered_alike_pass_in_silence(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    check_template(TEMPLATES[name], TOKENIZER, Path("ck"))
    assert not caplog.records


def test_a_template_that_only_transformers_renders_is_refused() -> None:
    for_images = (
        "{% for m in messages %}{% if m.content is not string and m.content | length > 1 %}"
        "{{ lipsum(1) }}{% endif %}{% endfor %}"
    )
    with pytest.raises(CheckpointError, match=r"a question about an image .*lipsum.*chat_template:1"):
        check_template(for_images, TOKENIZER, Path("ck"))


def test_a_template_that_is_rendered_otherwise_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "pumice"):
        check_template("{{ 1e20 }}", TOKENIZER, Path("ck"))
    assert "by transformers as '1e+20'" in caplog.text


def test_what_transformers_refuses_may_be_refused() -> None:
    check_template("{{ raise_exception('never') }}{{ lipsum(1) }}", TOKENIZER, Path("ck"))
