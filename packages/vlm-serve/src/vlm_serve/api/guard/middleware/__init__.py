"""ASGI middleware that every request passes before the interface sees it."""
