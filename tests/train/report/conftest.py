"""Pictures are drawn here."""

import pytest


@pytest.fixture(autouse=True)
def small_pictures():
    """Leaves plots as they are."""
