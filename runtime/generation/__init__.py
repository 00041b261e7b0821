"""Logits become tokens, and tokens text.

Enters: options, logits [V]. Leaves: tokens, text as it becomes final. Doors: `options` (what users ask), `make`
(options to a strategy), `strategy` (what a scheduler asks of one).
"""
