"""A bundle beside its checkpoint in transformers: parity, part by part.

Enters: a bundle, a checkpoint, probes, texts. Leaves: a report and its verdict. Door: `comparison`.
"""
