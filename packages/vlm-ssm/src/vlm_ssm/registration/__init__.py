"""What registered operations share: inputs, memory layouts, autograd, and modes of torch."""
