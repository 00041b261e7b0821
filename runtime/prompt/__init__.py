"""Messages become token ids.

Enters: a question, a conversation or a raw prompt, and its images. Leaves: `Prepared`. Doors: `builder`, `tokenizer`.
"""
