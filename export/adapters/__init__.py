"""Adapters of PEFT's, merged into a checkpoint while it is read; none of its files changes.

Enters: a `Checkpoint`, and folders or hub ids of adapters. Leaves: a `Checkpoint` that reads merged rows. Doors:
`folder`, `merged`.
"""
