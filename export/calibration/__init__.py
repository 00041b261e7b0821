"""What the inputs of the decoder's matrices carry, measured over random tokens or a text.

Enters: a config and a reader of weights. Leaves: second moments of each matrix's input. Doors: `moments`, `embeds`,
`tokens`.
"""
