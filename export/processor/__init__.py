"""Tokenizer, chat template, image processor and generation defaults become files and entries of the manifest.

Enters: a `Checkpoint`. Leaves: what the manifest says of them, and the files. Doors: `describe`, `load`.
"""
