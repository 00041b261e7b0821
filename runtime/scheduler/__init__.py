"""Requests over the slots of one KV cache: prefill in chunks, and decode steps of all sequences together.

Enters: requests. Leaves: the same requests, finished. Doors: `scheduler`, `request`.
"""
