"""A small byte-level tokenizer with a family's special tokens in a family's places."""

from __future__ import annotations

from dataclasses import dataclass

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

ALPHABET = 256
CORPUS = (
    "USER: what is shown in the picture? ASSISTANT: a red circle is left of the blue square. "
    "how many shapes are there? there are three shapes, and one of them is a yellow octagon. "
    "The quick brown fox jumps over the lazy dog while 0123456789 numbers are counted."
)


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """Special tokens: those `before` the 256 bytes and the merges, those `after`, and what each is for.

    `ends` beside `eos` end a generation too. `adds_bos`: the tokenizer puts `bos` before every text.
    """

    before: tuple[str, ...] = ("<unk>", "<s>", "</s>")
    after: tuple[str, ...] = ("<image>", "<pad>")
    bos: str | None = "<s>"
    eos: str = "</s>"
    unk: str | None = "<unk>"
    pad: str = "<pad>"
    image: str = "<image>"
    video: str | None = None
    ends: tuple[str, ...] = ()
    adds_bos: bool = True

    @property
    def named(self) -> dict[str, str]:
        """As `tokenizer_config.json` has them: `bos_token`, …"""
        tokens = {"bos": self.bos, "eos": self.eos, "unk": self.unk, "pad": self.pad}
        return {f"{name}_token": token for name, token in tokens.items() if token is not None}


def make_tokenizer(vocabulary: Vocabulary, size: int) -> Tokenizer:
    """Byte-level BPE of at most `size` tokens: merges while there is room and text to learn them from."""
    specials = len(vocabulary.before) + len(vocabulary.after)
    if size < specials + ALPHABET:
        raise ValueError(f"vocab_size is {size}: byte-level needs at least {specials + ALPHABET}")
    tokenizer = Tokenizer(models.BPE(unk_token=vocabulary.unk))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size - len(vocabulary.after),
        special_tokens=list(vocabulary.before),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator([CORPUS], trainer)
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in vocabulary.after])
    if vocabulary.adds_bos:
        bos = vocabulary.bos
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, tokenizer.token_to_id(bos))]
        )
    return tokenizer
