"""Runs the CUDA kernels' own source on a CPU, for machines without a GPU; needs g++."""
