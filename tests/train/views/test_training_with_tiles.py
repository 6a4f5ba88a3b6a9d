"""Whole runs of a model with tiles: equal to the bit after a kill and from cached features, packed and grouped."""

import json

import numpy as np
import pytest
import torch
import yaml
from fake_memory import install
from PIL import Image
from resume_helpers import go, losses, weights
from tiled_spec import TILES

from vlm_core.errors import UserError
from vlm_core.model_folder.assemble import build
from vlm_core.spec.spec import load_spec
from vlm_encoders.towers.timm_tower import TimmTower
from vlm_train.cli.check_data import check_data
from vlm_train.cli.preview import page, samples, terminal
from vlm_train.config.train import TrainConfig
from vlm_train.data.dataset import TOO_LONG, DroppedSample, Examples, sample_processor
from vlm_train.data.mixture import joined
from vlm_train.data.order.row_lengths import image_positions, sizes_of
from vlm_train.loss import SummedLoss
from vlm_train.micro_batch.longest_batch import assumed_batch, longest_batch

pytestmark = pytest.mark.usefixtures("one_thread")
SIZES = (40, 50), (90, 30), (31, 100), (20, 20), (200, 150), (64, 64)
SHORT = ["train.held_out_qa=null", "train.stages.0.steps=3", "train.stages.1.steps=3"]


@pytest.fixture
def tiled_run(run_spec, tmp_path):
    """`tiled_run(output, views=…, **changes)` writes a spec of rows with none, one, two and three pictures."""
    for number, (width, height) in enumerate(SIZES):
        values = np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(values).save(tmp_path / f"p{number}.png")
    rows = []
    for number in range(18):
        names = [f"p{(number + i) % len(SIZES)}.png" for i in range(number % 4)]
        turns = [
            {"from": "human", "value": "<image>\n" * len(names) + "what color is it?"},
            {"from": "gpt", "value": "red" if number % 2 else "blue"},
        ]
        rows.append({"id": str(number), "image": names, "conversations": turns})

    def make(output="run", views=TILES, **changes):
        path = run_spec(output, **changes)
        (tmp_path / "data.json").write_text(json.dumps(rows))
        path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), "views": views}))
        return path

    return make


def same(a, b):
    first, second = weights(a), weights(b)
    return losses(a) == losses(b) and all(torch.equal(first[k], second[k]) for k in second)


def test_a_killed_run_goes_on_to_the_bit_and_the_newline_is_trained(tiled_run, killed_at):
    whole, _ = go(tiled_run("whole"), *SHORT)
    killed_at(1, 2)
    with pytest.raises(KeyboardInterrupt):
        go(tiled_run("part"), *SHORT)
    part, _ = go(tiled_run("part"), *SHORT)
    assert same(part, whole)
    spec, _ = load_spec(tiled_run("whole"), ["train=null"])
    before = build(spec).connector.image_newline
    assert not torch.equal(weights(whole)["connector.image_newline"], before)


def test_a_frozen_connector_keeps_its_newline(tiled_run):
    path = tiled_run("frozen")
    llm_only = [f"train.stages.{i}.trainable=[llm]" for i in (0, 1)]
    folder, _ = go(path, *SHORT, *llm_only, "keep_random=[encoder, connector]")
    spec, _ = load_spec(path, ["train=null"])
    assert torch.equal(weights(folder)["connector.image_newline"], build(spec).connector.image_newline)


@pytest.mark.parametrize("views", [TILES, {"tiles": "dynamic", "max_tiles": 4}], ids=["anyres", "dynamic"])
def test_cached_features_of_views_train_the_same_and_are_computed_once(
    tiled_run, tmp_path, monkeypatch, views
):
    cache = {"feature_cache": {"path": str(tmp_path / "cache")}}
    plain, _ = go(tiled_run("plain", views), *SHORT)
    cached, _ = go(tiled_run("cached", views, **cache), *SHORT)
    assert [k[:2] for k in losses(cached)] == [k[:2] for k in losses(plain)]
    assert [k[2] for k in losses(cached)] == pytest.approx([k[2] for k in losses(plain)], rel=1e-5)
    seen, forward = [], TimmTower.forward

    def count(self, pixels):
        seen.append(len(pixels) if pixels.device.type == "cpu" and type(pixels) is torch.Tensor else 0)
        return forward(self, pixels)

    monkeypatch.setattr(TimmTower, "forward", count)
    again, _ = go(tiled_run("again", views, **cache), *SHORT)
    assert sum(seen) <= 2, "only the test picture of each stage"
    assert same(again, cached)


def test_packing_and_length_groups(tiled_run):
    path = tiled_run("packed")
    both = [f"train.stages.{i}.{key}=true" for i in (0, 1) for key in ("packing", "group_by_length")]
    folder, _ = go(path, *SHORT, *both)
    assert len(losses(folder)) == 6


def test_grouping_counts_the_positions_of_every_row(tiled_run):
    spec, _ = load_spec(tiled_run())
    train = TrainConfig.model_validate(spec.train)
    model, rows = build(spec), joined(train.stages[0].data)
    processor = sample_processor(model, spec, train, train.stages[0])
    expected = [sum(model.image_tokens(i) for i in processor.images(rows[r])) for r in range(len(rows))]
    assert image_positions(rows, model, sizes_of(rows)).tolist() == expected
    assert len(set(expected)) > 5


def test_the_count_of_a_row_needs_no_decoding(tiled_run, monkeypatch):
    spec, _ = load_spec(tiled_run())
    train = TrainConfig.model_validate({**spec.train, "max_length": 60})
    rows = joined(train.stages[0].data)
    processor = sample_processor(build(spec), spec, train, train.stages[0])
    items = [Examples(rows, processor.read)[index] for index in range(len(rows))]
    monkeypatch.setattr(Image.Image, "convert", lambda *a: pytest.fail("was decoded"))
    monkeypatch.setattr("vlm_train.data.dataset.load_image", lambda *a: pytest.fail("was decoded"))
    for index, item in enumerate(items):
        if not isinstance(item, DroppedSample):
            assert processor.sample(rows[index], processor.layouts(rows[index])) == item.sample
    (first, *_) = [item for item in items if isinstance(item, DroppedSample)]
    assert first.reason == TOO_LONG
    assert first.message == (
        "row 3: 3 images with 13 views of 4, arranged as 58, and 29 tokens are 87; max_length is 60"
    )


def test_a_row_with_tiles_reads_each_file_once(tiled_run, monkeypatch):
    """For its size and for its pixels."""
    from vlm_core.io import files

    spec, _ = load_spec(tiled_run())
    train = TrainConfig.model_validate(spec.train)
    rows, processor = joined(train.stages[0].data), sample_processor(build(spec), spec, train)
    row = next(row for row in rows if row["image"])
    reads, read = [], files._read
    monkeypatch.setattr(files, "_read", lambda path, *limit: reads.append(path) or read(path, *limit))
    processor.read(row)
    assert reads == row["image"]


def test_a_bad_image_among_several_is_numbered(tiled_run, tmp_path):
    spec, _ = load_spec(tiled_run())
    train = TrainConfig.model_validate(spec.train)
    (tmp_path / "p4.png").write_bytes((tmp_path / "p4.png").read_bytes()[:500])
    rows = joined(train.stages[0].data)
    processor = sample_processor(build(spec), spec, train, train.stages[0])
    item = Examples(rows, processor.read)[3]
    assert isinstance(item, DroppedSample)
    assert item.message.startswith("row 3: image 2 of 3: ")
    assert "p4.png" in item.message


def test_no_room_for_the_views_of_any_image_is_refused(tiled_run):
    spec, _ = load_spec(tiled_run(views={"tiles": "anyres"}))
    train = TrainConfig.model_validate({**spec.train, "max_length": 12})
    with pytest.raises(
        UserError, match=r"at least 3 views of 4 tokens, 12 in the sequence; train.max_length is 12"
    ):
        sample_processor(build(spec), spec, train)


@pytest.mark.parametrize("encoded", [False, True])
def test_the_longest_batch_has_the_most_views_and_runs(tiled_run, encoded):
    spec, _ = load_spec(tiled_run())
    train = TrainConfig.model_validate({**spec.train, "max_length": 90})
    model = build(spec)
    rows = joined(train.stages[0].data)
    processor = sample_processor(model, spec, train, train.stages[0])
    batch = longest_batch(model, train, 2, encoded=encoded)
    values = batch.features if encoded else batch.pixel_values
    items = [Examples(rows, processor.read)[index] for index in range(len(rows))]
    views = [sum(map(len, item.images)) for item in items if not isinstance(item, DroppedSample)]
    assert len(values) / 2 >= max(views)
    SummedLoss(model, encoded=encoded)(batch).backward()
    usual = assumed_batch(model, train, 2, 10)
    assert len(usual.pixel_values) == 2 * model.view_counts.usual.views
    SummedLoss(model)(usual).backward()


def test_micro_batch_size_auto(tiled_run, monkeypatch):
    monkeypatch.setenv("VLM_SCAN_BACKEND", "torch")
    install(monkeypatch)
    auto = [f"train.stages.{i}.micro_batch_size=auto" for i in (0, 1)]
    folder, _ = go(tiled_run("auto"), *auto, *SHORT)
    assert len(losses(folder)) == 6


def test_check_and_preview_count_the_views(tiled_run):
    spec, _ = load_spec(tiled_run())
    train = TrainConfig.model_validate(spec.train)
    lines = "\n".join(check_data(spec, train, 0, None)[0].lines())
    assert "views of an image: 3 to 5, median" in lines
    previews = samples(spec, train, 4)
    assert any("views of 32×32" in str(terminal(preview)) for preview in previews)
    assert page(spec.name, previews).count("data:image/png") == sum(
        len(image) for preview in previews for image in preview.content.images
    )
