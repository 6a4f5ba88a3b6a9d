"""Runs that keep their encoder's features: equal to the bit wherever these come from, and never stale."""

import json
import shutil

import pytest
import torch
from PIL import Image
from ranks import run_ranks
from resume_helpers import Killed, drop_out, go, losses, weights
from safetensors.torch import load_file
from torch._subclasses.fake_tensor import FakeTensor

from vlm_connectors.connectors import VSSL2
from vlm_core.errors import SpecError, UserError
from vlm_encoders.towers.timm_tower import TimmTower
from vlm_train.engine.trainer import StageTrainer
from vlm_train.feature_cache.cache import Features
from vlm_train.feature_cache.store import Writer
from vlm_train.report import results

pytestmark = pytest.mark.usefixtures("one_thread")
NO_EVALUATION = "train.held_out_qa=null"


@pytest.fixture(autouse=True)
def lean(monkeypatch):
    """What costs most in a run this small has nothing to do with features: the plot."""
    monkeypatch.setattr(results, "plot_curves", lambda *a: None)


@pytest.fixture
def plain(run_spec):
    """`plain(output, *overrides)`: a run of `steps` steps of each of two stages without evaluation -> its folder."""

    def run(output, *overrides, steps=3, **changes):
        few = [f"train.stages.{i}.steps={steps}" for i in (0, 1)]
        return go(run_spec(output, **changes), NO_EVALUATION, *few, *overrides)[0]

    return run


@pytest.fixture
def cached(plain, tmp_path):
    """The same with the features of its encoder in `cache`."""

    def run(output, *overrides, cache="cache", **changes):
        return plain(output, *overrides, feature_cache={"path": str(tmp_path / cache)}, **changes)

    return run


@pytest.fixture
def encoded(monkeypatch):
    """The number of images in each call of the encoder; the cost estimate calls it without values."""
    seen, forward = [], TimmTower.forward

    def count(self, pixels):
        if pixels.device.type != "meta" and not isinstance(pixels, FakeTensor):
            seen.append(len(pixels))
        return forward(self, pixels)

    monkeypatch.setattr(TimmTower, "forward", count)
    return seen


def same(a, b):
    """Bit-equal weights and losses."""
    first, second = weights(a), weights(b)
    return losses(a) == losses(b) and all(torch.equal(first[k], second[k]) for k in second)


@pytest.mark.parametrize("more", [{"steps": 6}, {"precision": "bf16"}])
def test_the_losses_are_those_without_a_cache(plain, cached, more):
    apart, kept = plain("plain", **more), cached("kept", **more)
    assert [k[:2] for k in losses(kept)] == [k[:2] for k in losses(apart)]
    for (*_, a), (*_, b) in zip(losses(kept), losses(apart), strict=True):
        assert a == pytest.approx(b, rel=1e-6)


def test_a_second_run_encodes_nothing_but_the_test_picture(cached, encoded):
    first = cached("first")
    assert encoded == [1, 32, 32, 32, 1], (
        "the test picture, two trials of a batch, then four images, filled up"
    )
    encoded.clear()
    second = cached("second")
    assert encoded == [1, 1], "once a stage"
    assert same(first, second)


@pytest.mark.parametrize("more", [{}, pytest.param({"num_workers": 2}, marks=pytest.mark.slow)])
def test_killed_while_filling_and_training_and_resumed(cached, monkeypatch, more):
    """A kill leaves part of the features: the resumed run ends like one that computed all of them itself."""
    monkeypatch.setattr(VSSL2, "forward", drop_out)
    whole = cached("whole", cache="other")
    for owner, name, count in (
        (Writer, "add", 3),
        (StageTrainer, "_record", 1),
        (StageTrainer, "_record", 4),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, killed_at(getattr(owner, name), count))
            with pytest.raises(Killed):
                cached("part", **more)
    assert same(cached("part", **more), whole)


def killed_at(function, count):
    """The function, which ends its process at the `count`-th call."""
    calls = []

    def call(*args):
        result = function(*args)
        calls.append(args)
        if len(calls) == count:
            raise Killed
        return result

    return call


def test_another_order_and_other_neighbours_give_the_same_bits(cached, tmp_path):
    """Features that another run left, computed in another company, are those that this one would compute."""
    cached("other", "train.seed=5", steps=1)
    assert same(cached("mixed"), cached("alone", cache="fresh"))


def test_another_image_under_the_same_name_is_another_image(cached, tmp_path):
    cached("before", steps=2)
    Image.new("RGB", (20, 30), "purple").save(tmp_path / "red.png")
    assert same(cached("after", steps=2), cached("fresh", cache="fresh", steps=2))


def test_an_image_that_changes_while_the_run_goes_on_ends_it(cached, monkeypatch, tmp_path):
    ready = Features.ready

    def change(self, *args):
        reader = ready(self, *args)
        Image.new("RGB", (20, 30), "purple").save(tmp_path / "red.png")
        return reader

    monkeypatch.setattr(Features, "ready", change)
    with pytest.raises(UserError, match=r"red\.png: has changed since its features were computed"):
        cached("run")
    monkeypatch.setattr(Features, "ready", ready)
    cached("run")


def test_bad_images_are_left_out_as_without_a_cache(plain, cached, tmp_path):
    (tmp_path / "red.png").write_text("not an image")
    skip = {"on_bad_sample": "skip", "bad_sample_budget": 6}
    apart, kept = plain("plain", **skip), cached("kept", **skip)
    assert kept.records("left_out.jsonl") == apart.records("left_out.jsonl")
    assert {m["reason"] for m in kept.records("left_out.jsonl")} == {"not-an-image"}
    with pytest.raises(UserError, match=r"stage align: row \d+: .*red\.png: not an image"):
        cached("strict")


def test_a_stage_that_trains_the_encoder_reads_pixels(cached, encoded, tmp_path):
    trains = ("train.stages.1.trainable=[encoder, connector]", "keep_random=[encoder, llm]")
    folder = cached("run", *trains)
    assert encoded[:4] == [1, 32, 32, 32]
    assert len(encoded[4:]) >= 3, "at least once a step"
    assert same(cached("again", *trains), folder)
    with pytest.raises(SpecError, match="feature_cache is for a frozen encoder, and every stage trains it"):
        cached("never", "train.stages.0.trainable=[encoder]", *trains)


def test_what_was_trained_is_not_what_was_cached(cached, tmp_path):
    """An encoder that one stage changes has other features in the next."""
    trains = ["train.stages.0.trainable=[encoder]", "train.stages.0.lr=0.01"]
    cached("run", *trains, steps=1)
    cached("plain", steps=1)
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_damaged_features_are_computed_again(cached, encoded, tmp_path, caplog):
    """A flipped bit anywhere in the shard, that of the test picture included: told, and no reason to stop."""
    first = cached("one")
    files = list((tmp_path / "cache").rglob("*.data"))
    for file in files:
        data = bytearray(file.read_bytes())
        for at in range(4, len(data), 64):  # in every entry
            data[at] ^= 1
        file.write_bytes(data)
    encoded.clear()
    again = cached("two")
    assert losses(again) == losses(first)
    assert "features are damaged and are recomputed" in caplog.text
    encoded.clear()
    assert losses(cached("three")) == losses(first)
    assert encoded == [1, 1], "what was computed again is kept"


def test_a_limit_is_kept_before_anything_is_written(cached, tmp_path):
    with pytest.raises(UserError, match=r"4 images, 4 of them to compute, 1\.02 kB; .* allows 1e-06 GB"):
        cached("run", "train.feature_cache.limit_gb=1e-6")
    assert not list((tmp_path / "cache").rglob("*.data"))
    cached("run", "train.feature_cache.limit_gb=1e-5")


def test_a_full_disk_ends_the_run_and_keeps_what_is_there(cached, monkeypatch, tmp_path):
    def full(self, key, features):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Writer, "add", full)
        with pytest.raises(UserError, match="cache: cannot write features: No space left on device"):
            cached("run")
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(0, 0, 99))
        with pytest.raises(UserError, match=r"1\.02 kB; .* has 99 B free: name another feature_cache\.path"):
            cached("run")
    cached("run")


def test_features_of_other_code_are_refused(cached, monkeypatch):
    """An update of a library may compute something else from the same weights."""
    cached("run")
    forward = TimmTower.forward
    monkeypatch.setattr(TimmTower, "forward", lambda self, pixels: forward(self, pixels) * 1.001)
    with pytest.raises(UserError, match=r"its features differ by 1\.0e-03 from those of this encoder"):
        cached("again")


def test_the_size_is_told_before_it_starts(cached, capsys):
    folder = cached("run")
    out = capsys.readouterr().out
    assert "features for instruct: at most 12 images of 256 B, 3.07 kB" in out.split("trainable")[0]
    assert "features for align: 4 images, 4 of them to compute, 1.02 kB (256 B each)" in out
    about = next((folder.path.parent / "cache").rglob("about.json"))
    assert json.loads(about.read_text())["shape"] == [2, 2, 16]
    assert load_file(folder.path / "model" / "encoder" / "weights.safetensors")


@pytest.mark.slow
def test_two_processes_fill_and_share_one_cache(run_spec, plain, tmp_path):
    """Each encodes its share of the images; the losses are those of one process without a cache."""
    path = tmp_path / "data.json"
    rows = [row for row in json.loads(path.read_text()) if "image" in row]
    path.write_text(json.dumps(rows))
    alone = plain("alone")
    spec = run_spec("both", feature_cache={"path": str(tmp_path / "cache")})
    few = ",".join([NO_EVALUATION, *(f"train.stages.{i}.steps=3" for i in (0, 1))])
    run_ranks("spread_script.py", spec, tmp_path, f"both:{few}")
    shards = list((tmp_path / "cache").rglob("*.keys"))
    assert sum(shard.stat().st_size for shard in shards) == 24 * (4 + 1), (
        "four images and the test picture, once each"
    )
    assert len(shards) >= 2
    found = [
        json.loads(line)["loss"] for line in (tmp_path / "both" / "metrics.jsonl").read_text().splitlines()
    ]
    assert found == pytest.approx([loss for *_, loss in losses(alone)], rel=1e-5)


def test_features_are_written_through_no_link(cached, tmp_path):
    shutil.rmtree(cached("first").path)
    next((tmp_path / "cache").glob("*/*.data")).with_suffix(".damaged").symlink_to(tmp_path / "absent")
    with pytest.raises(UserError, match="a link that leaves the folder"):
        cached("second")
    assert not (tmp_path / "absent").exists()
