"""Ahmadian et al. 2023, Intriguing properties of quantization at scale."""
