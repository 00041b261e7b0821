"""Random LLaVA checkpoints in Hugging Face layout.

Leaves: a folder that transformers loads as it stands, of any shape (`make_checkpoint`) or of a released family's
(`FAMILIES`).
Values come from a generator per tensor, seeded by `seed` and the tensor's place in the model: neither layout
nor sharding changes them. Tensors are drawn and written a slice at a time, so memory does not grow with them.
Weights are scaled by their input width, so activations stay near 1 at every depth and the best logits stand
clear of the next ones: equality of greedy tokens means something.
"""

from tests.factory.checkpoint import make_checkpoint
from tests.factory.families import FAMILIES, TILED, WITH_VIDEOS
from tests.factory.parts import BILLION, Dtype, Layout, Llava, Text, Tower, Vision
from tests.factory.templates import CHAT_TEMPLATE
from tests.factory.vocabulary import Vocabulary

__all__ = [
    "BILLION",
    "CHAT_TEMPLATE",
    "FAMILIES",
    "TILED",
    "WITH_VIDEOS",
    "Dtype",
    "Layout",
    "Llava",
    "Text",
    "Tower",
    "Vision",
    "Vocabulary",
    "make_checkpoint",
]
