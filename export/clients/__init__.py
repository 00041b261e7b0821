"""What other programs than pumice need beside the graphs: one file a client, docs/clients.md for all.

Enters: a bundle's folder with graphs and the checkpoint's own files, and its manifest. Leaves: their files in the same
folder, over the same weights. Door: `writing`.
"""
