"""Triton kernels. They take plain arguments, many at a time: Triton 3.6 and older compile no named tuples of them."""
