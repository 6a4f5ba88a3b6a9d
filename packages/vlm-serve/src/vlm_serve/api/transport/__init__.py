"""Between HTTP and values: bodies as JSON, server-sent events, and clients that go away."""
