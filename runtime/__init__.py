"""pumice: LLaVA-style vision-language models on ONNX Runtime, without PyTorch."""
