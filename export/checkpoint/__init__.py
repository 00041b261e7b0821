"""A checkpoint in Hugging Face layout, opened; no value is read before it is asked for.

Enters: a folder or a hub id. Leaves: a `Checkpoint`: names, dtypes, shapes, and a reader of rows. Door: `folder`.
"""
