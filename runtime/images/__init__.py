"""An image file becomes pixel values.

Enters: a path, bytes, text, a PIL image, an array. Leaves: a prepared image, float32 [3, H, W], with its digest and its
number of tokens. Doors: `files`, `addresses`, `preprocess`, `prepared`, `layout`.
"""
