"""Input channels of the decoder's matrices brought nearer to each other: the same model, kinder to 4 bits.

A few channels of a matrix's input carry most of what is multiplied, and a block of weights has one step for them and
their neighbours. A channel's activations are divided by s and its weights multiplied by it: the error of what counts
falls, that of what does not rises (AWQ, arXiv:2306.00978). With E[x²], which is known from a calibration
(`pumice.export.calibration.moments`), and the mean square W² of the weights that a channel meets,

    s = (E[x²])^(α/2) / (W²)^((1 − α)/2)

so that what a channel has as activation or as weight makes no difference: outliers that a norm makes, and the columns
behind it undo, are gone. Nothing is left to do at run time, for the division goes into what makes the channel:

    input of         made by                     E[x²], W²               divided
    q, k, v          the norm before             of all three            norm weight g → g / s
    gate, up         the norm before             of both                 norm weight g → g / s
    output           v, by way of attention      means over heads that   rows of v, and its bias
                                                 share a value
    down             up, times gate                                      rows of up, and its bias

Each s has the geometric mean 1, so that norms keep their size. Where nothing before a matrix can be divided, s is 1: a
norm without a weight, one that attention and MLP share, or none; an MLP without a gate, whose activation comes last.
"""

from __future__ import annotations

import re
from dataclasses import replace

import torch
from torch import Tensor

from pumice.export.calibration.cache_ranges import CacheRanges
from pumice.export.calibration.moments import Calibration
from pumice.models.config import LlavaConfig, TextConfig
from pumice.models.text_weights import decoder_weights
from pumice.models.weights import Read, cut

ALPHA = 0.25
"""Between evening out the weights (0) and the activations (1): measured in docs/benchmarks/precision.md."""
SMALLEST = 1e-6
"""Of the mean of E[x²], or of W²: a channel that has less is taken to have so much."""

_LAYER = r"^language_model\.layers\.(\d+)\."
_NAME = re.compile(
    _LAYER + r"(input_layernorm|post_attention_layernorm"
    r"|self_attn\.(?:q|k|v|o)_proj|mlp\.(?:gate|up|down)_proj)\.(weight|bias)$"
)
_INPUTS = {
    "input_layernorm": "self_attn.qkv",
    "self_attn.q_proj": "self_attn.qkv",
    "self_attn.k_proj": "self_attn.qkv",
    "self_attn.v_proj": "self_attn.qkv",
    "self_attn.o_proj": "self_attn.o_proj",
    "post_attention_layernorm": "mlp.gate_proj",
    "mlp.gate_proj": "mlp.gate_proj",
    "mlp.up_proj": "mlp.gate_proj",
    "mlp.down_proj": "mlp.down_proj",
}
"""The parameter whose input a part reads, or, of norms, makes."""
_OUTPUTS = {"self_attn.v_proj": "self_attn.o_proj", "mlp.up_proj": "mlp.down_proj"}
"""The parameter whose input a part's rows make."""


class ChannelBalance:
    """The scales s of every layer, made when a layer is first reached and kept.

    Args:
        config, read, calibration: of the plain model.
        alpha: see above.
    """

    def __init__(
        self, config: LlavaConfig, read: Read, calibration: Calibration, alpha: float = ALPHA
    ) -> None:
        self._text, self._read, self._calibration, self._alpha = config.text, read, calibration, alpha
        self._weights = decoder_weights(config)
        self._scales: dict[str, Tensor] = {}

    def reach(self, name: str) -> None:
        """Find the scales of a parameter's layer, and keep them for the threads that read it."""
        layer = ".".join(name.split(".")[:2])
        for part in dict.fromkeys(_INPUTS.values()):
            self.scales(self._parameter(f"{layer}.{part}.weight"))

    def _parameter(self, name: str) -> str:
        """Of an MLP without a gate the other matrix reads what the gate would."""
        return name if self._text.gated else name.replace("gate_proj", "up_proj")

    def scales(self, name: str) -> Tensor:
        """What the inputs of the decoder's parameter `name`, a weight, are divided by, float32 [K]."""
        if self._text.gated:
            name = name.replace("up_proj", "gate_proj")
        if name not in self._scales:
            self._scales[name] = self._found(name)
        return self._scales[name]

    def _found(self, name: str) -> Tensor:
        if not _divisible(self._text, name):
            return torch.ones(self._weights[name].sources[0][1][1])
        moments = self._calibration.moments(name)
        carried, met = moments.diagonal() if moments.dim() == 2 else moments, self._met(name)
        if name.endswith("o_proj.weight"):
            carried, met = self._by_value_head(carried), self._by_value_head(met)
        scales = _above(carried).pow(self._alpha / 2) / _above(met).pow((1 - self._alpha) / 2)
        return scales / scales.log().mean().exp()

    def _met(self, name: str) -> Tensor:
        """The mean square of the weights that each input channel of a parameter meets, float32 [K]."""
        readers = [name, name.replace("gate_proj", "up_proj")] if "gate_proj" in name else [name]
        pieces = [piece for reader in readers for piece in cut(self._weights[reader])]
        total = sum(self._read(source, a, b).float().square().sum(0) for source, a, b, _ in pieces)
        assert isinstance(total, Tensor)
        return total / sum(self._weights[reader].shape[1] for reader in readers)

    def moments(self, name: str) -> Tensor:
        """The calibration's, of the balanced model's inputs."""
        moments, scales = self._calibration.moments(name), self.scales(name)
        return moments / (scales[:, None] * scales) if moments.dim() == 2 else moments / scales.square()

    def cache_ranges(self, layer: int) -> CacheRanges:
        """The calibration's, of the balanced model's keys and values."""
        ranges = self._calibration.cache_ranges(layer)
        scales = self._of_values(self.scales(f"layers.{layer}.self_attn.o_proj.weight"))
        return replace(ranges, values=ranges.values / scales.view_as(ranges.values))

    def read(self, name: str, start: int, stop: int) -> Tensor:
        """Rows start … stop of a tensor as the balanced model has it."""
        match = _NAME.match(name)
        if match is None:
            return self._read(name, start, stop)
        layer, part, leaf = f"layers.{match[1]}.", match[2], match[3]
        rows = self._read(name, start, stop).float()
        scales = self.scales(self._parameter(f"{layer}{_INPUTS[part]}.weight"))
        if part.endswith("layernorm"):
            return rows / scales[start:stop]
        if leaf == "weight":
            rows = rows * scales
        if part in _OUTPUTS:
            made = self.scales(f"{layer}{_OUTPUTS[part]}.weight")
            made = self._of_values(made) if part == "self_attn.v_proj" else made
            rows = rows / (made[start:stop, None] if leaf == "weight" else made[start:stop])
        return rows

    def _by_value_head(self, carried: Tensor) -> Tensor:
        """[heads·K], where the heads that share a value have their mean."""
        shared = carried.view(self._text.num_key_value_heads, -1, self._text.head_dim)
        return shared.mean(1, keepdim=True).expand(shared.shape).reshape(-1)

    def _of_values(self, scales: Tensor) -> Tensor:
        """[heads·K] → [value heads·K]."""
        return scales.view(self._text.num_key_value_heads, -1, self._text.head_dim)[:, 0].reshape(-1)


def _divisible(text: TextConfig, name: str) -> bool:
    """Whether what makes the input of the decoder's parameter `name` can be divided."""
    if name.endswith("o_proj.weight"):
        return True
    if name.endswith("down_proj.weight"):
        return text.gated
    return text.norm_weight and text.norm_places in ("before", "around")


def _above(values: Tensor) -> Tensor:
    return values.clamp(min=float(values.mean()) * SMALLEST)
