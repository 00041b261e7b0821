"""Pixel values become image features.

Enters: prepared images. Leaves: features, float32 [tokens, D]; each distinct image is encoded once. Doors: `encoder`,
`features`, `cache`.
"""
