"""How a checkpoint becomes a bundle."""
