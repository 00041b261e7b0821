"""Torch modules become ONNX graphs without weights.

Enters: a config. Leaves: traced graphs. Doors: `decoder`, `embedding`, `vision_encoder`, `tracing`.
"""
