"""The bundled tiny LLaVA: the scenes it learned from, its training script, its checkpoint and its held-out set."""
