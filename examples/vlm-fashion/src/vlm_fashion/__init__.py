"""Fashion-MNIST's items in a grid, with questions about their neighbours."""
