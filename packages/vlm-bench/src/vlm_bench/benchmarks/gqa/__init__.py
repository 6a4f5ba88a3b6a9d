"""GQA: the balanced test-dev questions."""
