"""The spec key `views`: every key is honoured or refused with file, line and key."""

import pytest
import torch
import yaml

from vlm_core.errors import SpecError, UserError
from vlm_core.model_folder.assemble import build
from vlm_core.spec.spec import Spec, load_spec
from vlm_core.views.rule import LLAVA_NEXT_GRIDS, ViewRule


@pytest.fixture
def written(tiny_spec, tmp_path):
    def write(views, **parts):
        path = tmp_path / "spec.yaml"
        path.write_text(yaml.safe_dump({**tiny_spec, **parts, "views": views}))
        return path

    return write


@pytest.mark.parametrize(
    ("views", "rule"),
    [
        ({}, None),
        ({"tiles": "none"}, None),
        ({"tiles": "anyres"}, ViewRule()),
        ({"tiles": "anyres", "max_tiles": 2}, ViewRule(grids=((1, 2), (2, 1)))),
        ({"tiles": "anyres", "grid": [[2, 3]], "overview": False}, ViewRule(((2, 3),), overview=None)),
        ({"tiles": "dynamic"}, ViewRule(None, overview="last", pad="none")),
        (
            {"tiles": "dynamic", "min_tiles": 2, "max_tiles": 6, "overview": "first", "pad": "mean"},
            ViewRule(None, (2, 6), "first", "mean"),
        ),
        (
            {"tiles": "anyres", "arrangement": "rows", "unpad": True, "newline": True},
            ViewRule(LLAVA_NEXT_GRIDS, rows=True, unpad=True, newline=True),
        ),
    ],
)
def test_keys_become_a_rule_and_survive_a_saved_spec(written, views, rule):
    spec, _ = load_spec(written(views))
    assert spec.views.rule() == rule
    assert Spec.model_validate(yaml.safe_load(spec.to_yaml())).views == spec.views


@pytest.mark.parametrize(
    ("views", "key", "text"),
    [
        ({"tiles": "anyres", "grids": [[1, 2]]}, "grids", "did you mean 'grid'"),
        ({"tiles": "tiled"}, "tiles", "possible: anyres, dynamic, none"),
        (
            {"tiles": "dynamic", "grid": [[1, 2]]},
            "grid",
            "no effect with tiles: dynamic; it belongs to tiles: anyres",
        ),
        ({"tiles": "anyres", "min_tiles": 2}, "min_tiles", "it belongs to tiles: dynamic"),
        ({"max_tiles": 2}, "max_tiles", "no effect with tiles: none"),
        ({"tiles": "anyres", "grid": []}, "grid", "at least 1 item"),
        ({"tiles": "anyres", "grid": [[1, 2, 3]]}, "grid.0", "at most 2 items"),
        ({"tiles": "anyres", "grid": [[0, 2]]}, "grid.0.0", "greater than or equal to 1"),
        ({"tiles": "anyres", "grid": [[1, 2], [1, 2]]}, "grid", "[1, 2] is listed twice: no image"),
        (
            {"tiles": "anyres", "grid": [[1, 2], [3, 3]], "max_tiles": 6},
            "max_tiles",
            "no image fits [3, 3] of grid, 9 tiles, within 6",
        ),
        ({"tiles": "anyres", "grid": [[20, 20]]}, "grid", "[20, 20]: 400 tiles; at most 256"),
        ({"tiles": "anyres", "max_tiles": 1}, "max_tiles", "no grid of LLaVA-1.6 has 1 tile"),
        ({"tiles": "dynamic", "min_tiles": 5, "max_tiles": 4}, "max_tiles", "4 is less than min_tiles 5"),
        ({"tiles": "anyres", "unpad": True}, "unpad", "needs arrangement: rows"),
        ({"tiles": "anyres", "newline": True}, "newline", "needs arrangement: rows"),
        (
            {"tiles": "anyres", "arrangement": "rows", "pad": "none", "unpad": True},
            "unpad",
            "nothing is padded",
        ),
        (
            {"tiles": "dynamic", "arrangement": "rows", "unpad": True},
            "unpad",
            "nothing is padded with pad: none",
        ),
        ({"newline": True}, "newline", "no effect with tiles: none"),
        ({"arrangement": "rows"}, "arrangement", "no effect with tiles: none"),
        ({"overview": False}, "overview", "no effect with tiles: none"),
        ({"tiles": "anyres", "overview": "middle"}, "overview", "'middle'"),
    ],
)
def test_what_cannot_be_is_refused_at_its_key(written, views, key, text):
    path = written(views)
    with pytest.raises(SpecError) as caught:
        load_spec(path)
    (line,) = str(caught.value).splitlines()
    assert line.startswith(f"{path}:"), line
    assert f" views.{key}: " in line, line
    assert text in line


def test_an_encoder_that_crops_its_tiles_is_refused_with_what_to_set(written, tiny_spec):
    cropped = {**tiny_spec["encoder"], "resize_mode": "crop", "crop_pct": 0.875}
    spec, _ = load_spec(written({"tiles": "anyres"}, encoder=cropped))
    with pytest.raises(
        UserError, match=r"32×32 \(crop_pct 0.875\).*set encoder.resize_mode: resize, or encoder.crop_pct"
    ):
        build(spec, weights=False)
    with torch.device("meta"), pytest.raises(UserError, match=r"crop_pct 0.875"):
        build(spec, weights=False)
    whole, _ = load_spec(written({"tiles": "anyres"}, encoder={**cropped, "crop_pct": 1.0}))
    build(whole, weights=False)


def test_a_connector_without_rows_of_tokens_is_refused_for_rows_alone(written):
    resampler = {"type": "resampler", "grid": 2, "head_dim": 4}
    spec, _ = load_spec(written({"tiles": "anyres", "arrangement": "rows"}, connector=resampler))
    with pytest.raises(UserError, match="this connector's 4 tokens of a view have no rows and columns"):
        build(spec, weights=False)
    tiles, _ = load_spec(written({"tiles": "anyres"}, connector=resampler))
    assert build(tiles, weights=False).image_processor.image_tokens((64, 64)) == 20


def test_a_canvas_larger_than_any_image_is_refused(written, tiny_spec):
    large = {**tiny_spec["encoder"], "image_size": 1024}
    spec, _ = load_spec(written({"tiles": "dynamic", "max_tiles": 64}, encoder=large))
    wanted = r"no image fits \[\d+, \d+\] tiles of 1024×1024: .* lower max_tiles"
    with torch.device("meta"), pytest.raises(UserError, match=wanted):
        build(spec, weights=False)


def test_check_prints_the_views(written, cli):
    from vlm_core.cli.assemble import main

    code, out, err = cli(main, written({"tiles": "anyres"}), "--check")
    assert code == 0, err
    assert "view 32×32 px" in out
    (usual,) = [line.split() for line in out.splitlines() if line.split()[:1] == ["usual"]]
    assert usual == ["usual", "640×480", "px", "2×2", "5", "20"]
