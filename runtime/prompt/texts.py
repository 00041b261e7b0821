"""A bundle's tokenizer for plain texts, which are not prompts: nothing in them is a special token.

Enters: a bundle's folder. Leaves: token ids.
"""

from __future__ import annotations

from pathlib import Path

from pumice.errors import BundleError
from pumice.manifest import Chat, ImageTokens, Manifest, Tokens
from pumice.manifest.regular_file import read_regular
from pumice.prompt.sealed import Span
from pumice.prompt.tokenizer import PromptTokenizer

_MOST_BYTES = 512 << 20
"""Of a tokenizer; those of large vocabularies have a tenth."""


class TextTokenizer:
    """A bundle's tokenizer, for texts: all that could be special is sealed, as `pumice.load` has it.

    `folder` has the files of `chat`; `start` is what stands before a text: the model's BOS token, or nothing.

    Raises:
        BundleError: the tokenizer cannot be read.
    """

    def __init__(self, folder: Path, tokens: Tokens, images: ImageTokens, chat: Chat) -> None:
        special = (tokens.bos_token, tokens.eos_token, tokens.unk_token, tokens.pad_token)
        template = chat.template_file
        try:
            self._tokenizer = PromptTokenizer(
                read_regular(folder / chat.tokenizer_file, _MOST_BYTES),
                reserved=[text for text in (*special, *images.special_texts) if text],
                template="" if template is None else read_regular(folder / template, _MOST_BYTES).decode(),
            )
        except (OSError, UnicodeDecodeError) as error:
            raise BundleError(f"the bundle's tokenizer cannot be read: {error}") from None
        ids = self._encoded(tokens.bos_token or "", trusted=True)
        self.start = ids if len(ids) == 1 else []

    @classmethod
    def of(cls, bundle: Path, manifest: Manifest) -> TextTokenizer:
        """That of a bundle."""
        return cls(bundle, manifest.tokens, manifest.image_tokens, manifest.chat)

    def encode(self, text: str) -> list[int]:
        """Token ids of a text's words, nothing added."""
        return self._encoded(text, trusted=False)

    def _encoded(self, text: str, *, trusted: bool) -> list[int]:
        return self._tokenizer.encode_spans([Span(text=text, trusted=trusted)], add_special_tokens=False)
