"""specs/moving.yaml with a few clips and one step a stage: its controls, and its table by how many frames ago."""

from pathlib import Path

import pytest
from perf.train import frame_distances

from vlm_core.spec.spec import load_spec
from vlm_train.run import start

SPEC = Path(__file__).parents[3] / "specs" / "moving.yaml"


def small(tmp_path) -> list[str]:
    """The spec's clips, fewer and shorter."""
    stages = [f"train.stages.{i}" for i in range(4)]
    return [
        f"train.output={tmp_path / 'run'}",
        f"train.feature_cache.path={tmp_path / 'features'}",
        "train.num_workers=0",
        *(f"{stage}.{key}" for stage in stages for key in ("steps=1", "batch_size=2", "data.0.clips=4")),
        *(f"{stage}.data.0.folder={tmp_path / 'frames'}" for stage in stages),
        *(f"train.held_out_qa.data.{i}.folder={tmp_path / 'frames'}" for i in (0, 1)),
        f"train.validation.data.0.folder={tmp_path / 'frames'}",
        "train.validation.data.0.clips=2",
        "train.held_out_qa.data.0.clips=9",
        "train.held_out_qa.data.1.clips=1",
        "train.held_out_qa.samples=2",
        "llm.tokenizer.dataset.clips=20",
    ]


@pytest.mark.slow
def test_controls_and_table(tmp_path, capsys):
    folder, results = start(*load_spec(SPEC, small(tmp_path)))
    records = dict(results)
    asked = {name: record["questions"] for name, record in records.items()}
    assert asked == {
        **{f"after {name}": 2 for name in ("motion", "short", "middle")},
        "after long": 9 * 4 + 3,
        "images shuffled": 0,
        "images reordered": 39,
        "last image only": 39,
        "question alone": 39,
        "majority answer": 39,
    }
    assert records["images shuffled"]["left_out"] == {"no other image": 39}
    after, reordered = records["after long"], records["images reordered"]
    pairs = list(zip(after["answers"], reordered["answers"], strict=True))
    assert all(sorted(a["images"]) == sorted(b["images"]) for a, b in pairs)
    assert all(a["images"] != b["images"] for a, b in pairs)
    assert {len(answer["images"]) for answer in records["last image only"]["answers"]} == {1}
    assert {len(answer["images"]) for answer in records["question alone"]["answers"]} == {0}
    hits, trained = frame_distances.hits_of(folder.path)
    assert trained == 64 - 6
    assert {(kind, length): sorted(by_distance) for (kind, length), by_distance in hits.items()} == {
        ("color", 64): [0, 1, 2, 4, 8, 16, 32, 48, 56],
        ("direction", 64): [0, 1, 2, 4, 8, 16, 32, 48, 56],
        ("color", 256): [1],
        ("direction", 256): [1],
    }
    frame_distances.plot([("run", hits)], trained, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_intervals_of_shares():
    """Wilson's: 0 of 10 and 5 of 10, as in published tables."""
    assert [round(value, 1) for value in frame_distances.wilson([False] * 10)] == [0.0, 0.0, 27.8]
    assert [round(value, 1) for value in frame_distances.wilson([True, False] * 5)] == [50.0, 23.7, 76.3]


def test_runs_of_one_name_are_a_mean_with_its_range(tmp_path):
    first = {("color", 64): {1: [True] * 9 + [False], 2: [True] * 10}}
    second = {("color", 64): {1: [True] * 7 + [False] * 3}}
    runs = [("a", first), ("a", second), ("b", second)]
    assert list(frame_distances.rows(runs)) == [
        ["a", 2, "color", 64, 1, 20, "80.0", "70.0 to 90.0"],
        ["a", 1, "color", 64, 2, 10, "100.0", "72.2 to 100.0"],
        ["b", 1, "color", 64, 1, 10, "70.0", "39.7 to 89.2"],
    ]
    frame_distances.plot(runs, 58, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
