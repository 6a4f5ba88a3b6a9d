"""The answers to one request: several engine requests at once, their events, and what a client is told of them."""
