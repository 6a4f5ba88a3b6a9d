"""The same rows in any format train the same model; several formats go into one stage, bad rows, kills and all."""

import json

import pytest
from resume_helpers import run_folder
from shards import COLOURS, held, parquet, png, tar

from vlm_core.io import files
from vlm_train.checkpoint.run_dir import DROPPED_SAMPLES, VALIDATION
from vlm_train.cli import main
from vlm_train.data.parquet_files import parquet_rows
from vlm_train.report import html

SKIP = ("train.on_bad_sample=skip", "train.bad_sample_budget=20")


def losses(folder):
    return [(m["stage"], m["step"], m["loss"], m["targets"]) for m in folder.metrics()]


@pytest.fixture
def formats(run_spec, tmp_path):
    """`run_spec`'s 18 rows in each format, by type."""
    run_spec()
    found = json.loads((tmp_path / "data.json").read_text())
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in found))
    records, members = [], {}
    for i, row in enumerate(found):
        image = row.get("image", "").removesuffix(".png")
        records.append({**row, "image": {"bytes": (tmp_path / row["image"]).read_bytes()} if image else None})
        members[f"{i:02d}.json"] = row
        if image:
            members[f"{i:02d}.png"] = (tmp_path / row["image"]).read_bytes()
    parquet(tmp_path / "x.parquet", records)
    tar(tmp_path / "x.tar", members)
    return {
        "llava": {"type": "llava", "path": str(tmp_path / "x.jsonl")},
        "parquet": {"type": "parquet", "path": str(tmp_path / "x.parquet")},
        "webdataset": {"type": "webdataset", "path": str(tmp_path / "x.tar")},
    }


def spec_of(run_spec, data, **changes):
    stage = {
        "trainable": ["connector", "llm"],
        "data": data,
        "batch_size": 6,
        "lr": 3e-3,
        "micro_batch_size": 4,
    }
    return run_spec(stages=[{"name": "only", **stage, "steps": 3}], **changes)


def test_a_row_trains_the_same_whatever_file_it_is_in(run_spec, formats):
    seen = [
        losses(run_folder(spec_of(run_spec, [data], output=kind, held_out_qa=None)))
        for kind, data in formats.items()
    ]
    assert seen[1:] == seen[:1] * 2


@pytest.mark.slow
def test_what_a_run_shows_is_the_same_whatever_file_its_rows_are_in(
    run_spec, formats, capsys, tmp_path, monkeypatch
):
    """Evaluation, validation, pictures and preview: to the bit."""
    seen = {}
    for kind, data in formats.items():
        watch = {"data": [data], "every": 9, "rows": 4, "samples": 2, "max_new_tokens": 2}
        asked = {"data": [data], "batch_size": 18, "max_new_tokens": 1}
        path = spec_of(run_spec, [data], output=kind, validation=watch, held_out_qa=asked)
        folder = run_folder(path)
        samples = [(s["id"], s["said"]) for m in folder.records(VALIDATION) for s in m["samples"]]
        seen[kind] = losses(folder), (folder.path / "results.md").read_text(), samples
        assert (folder.path / "samples.png").stat().st_size > 1000
        page = html.write(folder.path).read_text()
        assert "(gone)" not in page
        assert page.count("data:image/png") >= 2
        monkeypatch.setattr(
            "sys.argv", ["vlm-train", "preview", str(path), "--html", str(tmp_path / "p.html")]
        )
        assert main.main() == 0
        seen[kind] += ((tmp_path / "p.html").read_text(), capsys.readouterr().out.count("red"))
    assert seen["parquet"] == seen["llava"]
    assert seen["webdataset"] == seen["llava"]


@pytest.fixture
def spoiled(formats, tmp_path):
    """27 more rows, in parquet's row groups that are not all kept and in a tar that breaks off; some are bad."""
    records = [
        {"image": held(COLOURS[i % 6]), "question": "color?", "answer": COLOURS[i % 6]} for i in range(16)
    ]
    records[3]["image"]["bytes"] = b"no image"
    records[9]["answer"] = None
    parquet(tmp_path / "y.parquet", records, group=2)
    members = {}
    for i in range(11):
        members |= {
            f"{i:02d}.png": b"<html>" if i == 4 else png(COLOURS[i % 6]),
            f"{i:02d}.txt": COLOURS[i % 6],
        }
    broken = tar(tmp_path / "y.tar", members)
    broken.write_bytes(broken.read_bytes()[:-11000])
    return [
        formats["llava"],
        {"type": "parquet", "path": str(tmp_path / "y.parquet")},
        {"type": "webdataset", "path": str(tmp_path / "y.tar")},
    ]


def test_a_mixture_that_skips_is_resumed_to_the_bit(run_spec, spoiled, monkeypatch, killed_at):
    """Row groups in windows, worker processes, bad rows of every source; killed once and continued."""
    monkeypatch.setattr(parquet_rows, "CACHED_BYTES", 1)
    path = spec_of(run_spec, spoiled, held_out_qa=None)
    whole = run_folder(path, *SKIP, f"train.output={path.parent / 'whole'}", "train.stages.0.steps=8")
    reasons = {m["reason"] for m in whole.records(DROPPED_SAMPLES)}
    assert reasons == {"not-an-image", "schema", "truncated"}
    killed_at(0, 2)
    with pytest.raises(KeyboardInterrupt):
        run_folder(path, *SKIP, "train.num_workers=2", "train.stages.0.steps=8")
    part = run_folder(path, *SKIP, "train.stages.0.steps=8")
    assert losses(part) == losses(whole)
    assert part.records(DROPPED_SAMPLES) == whole.records(DROPPED_SAMPLES)


def test_without_skipping_the_first_known_fault_ends_it_before_it_starts(run_spec, spoiled):
    with pytest.raises(
        ValueError, match=r"stage only: .*y\.tar: has no end-of-archive mark .*after 9 complete samples"
    ):
        run_folder(spec_of(run_spec, spoiled, held_out_qa=None))


def test_what_the_storage_made_us_repeat_is_a_figure_and_no_bad_row(run_spec, formats, monkeypatch):
    import errno

    monkeypatch.setattr(files, "RETRY_DELAYS", (0.0,))
    read, failures = files._read, [OSError(errno.EIO, "stumbled"), OSError(errno.ESTALE, "stumbled")]

    def stumbling(name, *limit):
        counted = files._RETRIED.get() is not None  # by the loader; the files of a run are hashed before
        if failures and counted and str(name).endswith("green.png"):
            raise failures.pop()
        return read(name, *limit)

    monkeypatch.setattr(files, "_read", stumbling)
    failures.pop()
    folder = run_folder(spec_of(run_spec, [formats["llava"]], held_out_qa=None))
    assert sum(m.get("io_retries", 0) for m in folder.metrics()) == 1
    assert not folder.records(DROPPED_SAMPLES)
