"""Graphs, opened and run by ONNX Runtime on a device.

Enters: a checked bundle, arrays. Leaves: arrays. Doors: `opening` (sessions), `arrays` (where they lie), `runs` (how
they are run, and cancelled).
"""
