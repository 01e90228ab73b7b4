"""FPTQ: fine-grained post-training quantization for large language models (W4A8)."""
