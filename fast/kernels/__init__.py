"""Triton kernels: forward, backward and decode, on a GPU, or interpreted on a CPU."""
