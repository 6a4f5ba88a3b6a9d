"""A tiny model whose images are cut into tiles, with every option of their arrangement."""

import pytest
from tiled_spec import TILES


@pytest.fixture(scope="session")
def tiled_spec(tiny_spec):
    return {**tiny_spec, "views": TILES}


@pytest.fixture(scope="session")
def tiled_folder(tiled_spec, tmp_path_factory):
    """A saved model folder of `tiled_spec`; don't write into it."""
    from vlm_core.model_folder.assemble import build, save
    from vlm_core.spec.spec import Spec

    spec = Spec.model_validate(tiled_spec)
    path = tmp_path_factory.mktemp("tiled") / "tiled"
    save(build(spec), spec, path)
    return path
