"""One-shot rounding (GPTQ): section 7 of The case for 4-bit precision, and questions of ours."""
