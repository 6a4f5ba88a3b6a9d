"""The error of a backend that can't run."""

from __future__ import annotations


class BackendError(ValueError):
    """A backend is unknown, not installed, or not for these tensors. The message names the alternatives.

    `user_error` marks it for command lines, which print the message without a traceback.
    """

    user_error = True


class UnusableError(ImportError):
    """A backend is installed, but this machine can't run it. The message says what to do."""
