"""The tokenizer of a GGUF file, as transformers has it.

Enters: the file's facts. Leaves: a byte-level BPE with its special tokens and chat template; and that template once
more for messages whose content is a list of parts, images among them.
"""

from __future__ import annotations

import re
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

IMAGE = "<image>"
_CONTROL = 3
"""llama.cpp's kind of a token that is never text."""
_SAID = re.compile(r"\{\{([^{}]+) \+ message\['content'\] \+ ([^{}]+)\}\}")


def make_tokenizer(facts: dict[str, Any]) -> PreTrainedTokenizerFast:
    """The tokenizer; digits are tokens of their own, which llama.cpp calls `smollm`.

    Raises:
        ValueError: the file has a tokenizer of another kind.
    """
    kind = facts["tokenizer.ggml.model"], facts["tokenizer.ggml.pre"]
    if kind != ("gpt2", "smollm"):
        raise ValueError(f"the file's tokenizer is {kind}, expected ('gpt2', 'smollm')")
    words: list[str] = facts["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ")) for merge in facts["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE({word: number for number, word in enumerate(words)}, merges))
    digits = pre_tokenizers.Digits(individual_digits=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [digits, pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    kinds = zip(words, facts["tokenizer.ggml.token_type"], strict=True)
    tokenizer.add_special_tokens([special(word) for word, kind in kinds if kind == _CONTROL])
    named = {"bos": "bos", "eos": "eos", "pad": "padding", "unk": "unknown"}
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=facts["llama.context_length"],
        clean_up_tokenization_spaces=False,
        **{
            f"{ours}_token": words[facts[f"tokenizer.ggml.{theirs}_token_id"]]
            for ours, theirs in named.items()
        },
    )
    wrapped.chat_template = facts["tokenizer.chat_template"]
    return wrapped


def special(word: str) -> AddedToken:
    """A token that no text becomes by chance."""
    return AddedToken(word, special=True, normalized=False)


def with_images(template: str) -> str:
    """A template for texts as contents, that also takes lists of parts: an image is `<image>` and a newline.

    Raises:
        ValueError: it has another form than the one that this was written for.
    """
    part = f"{{% if part['type'] == 'image' %}}{IMAGE}\n{{% else %}}{{{{ part['text'] }}}}{{% endif %}}"
    parts = f"{{% for part in message['content'] %}}{part}{{% endfor %}}"
    content = (
        f"{{% if message['content'] is string %}}{{{{ message['content'] }}}}{{% else %}}{parts}{{% endif %}}"
    )
    found, count = _SAID.subn(lambda said: f"{{{{{said[1]}}}}}{content}{{{{{said[2]}}}}}", template)
    if not count:
        raise ValueError("the chat template never says message['content'] between two other texts")
    return found
