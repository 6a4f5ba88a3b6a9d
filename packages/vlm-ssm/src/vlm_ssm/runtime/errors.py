"""The error of a backend that was asked for and can't run."""

from __future__ import annotations


class BackendError(ValueError):
    """A backend that is unknown, not installed, or not for these tensors; the message says what can be done.

    `user_error` tells command lines that the message is all that their user needs.
    """

    user_error = True
