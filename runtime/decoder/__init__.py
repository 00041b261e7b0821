"""Token ids and image features become logits, over a KV cache.

Enters: ids [1, T], features [M, D]. Leaves: logits [V] after the last, and a slot of the cache filled. Doors: `decoder`
(prefill), `step` (decode step), `kv_cache`, `prefix_cache`, `prefix_keys`.
"""
