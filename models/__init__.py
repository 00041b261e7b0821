"""What is computed: one torch module per part of a LLaVA."""
