"""An image file becomes pixel values.

Enters: a path, bytes, a PIL image, an array. Leaves: a prepared image, float32 [3, H, W], with its digest and its
number of tokens. Doors: `files`, `preprocess`, `prepared`, `layout`.
"""
