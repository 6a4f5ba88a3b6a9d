"""The chat page: files that `api` serves."""

from vlm_serve.page.routes import routes

__all__ = ["routes"]
