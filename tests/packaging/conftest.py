"""An environment to install plugins into."""

import sys
import sysconfig
from pathlib import Path

import pytest
from processes import succeed


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment of its own that sees this one's packages, so that torch is not installed again."""
    folder = tmp_path_factory.mktemp("plugin") / "env"
    succeed(sys.executable, "-m", "venv", folder)
    python = folder / "bin" / "python"
    target = succeed(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
    # addsitedir, not a bare path: the workspace's packages are themselves linked by .pth files
    line = f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n"
    (Path(target) / "workspace.pth").write_text(line)
    return python
