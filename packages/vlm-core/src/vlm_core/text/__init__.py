"""Chat templates, and conversations as tokens with a loss mask; batches of them."""
