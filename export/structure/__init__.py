"""The structure of a graph: all of it but its weights, traced once for equal models, and kept.

Enters: which graph of which model, in which float type. Leaves: an `onnx_ir` model whose parameters are inputs,
simplified. Doors: `structure`, `wanted`.
"""
