"""How tokens are chosen: options, what they do to logits, sampling, beams, and when an answer ends."""
