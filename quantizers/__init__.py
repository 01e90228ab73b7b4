"""Tensors in, tensors out: k-bit data types, blockwise quantization, bit accounting."""
