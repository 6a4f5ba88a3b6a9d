"""What `vlm-bench run` refuses or recovers from: damaged files, answers of other runs, wrong options."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from commands import Out, Runner, printed, refused, said

from vlm_bench.cli.main import main
from vlm_core.plugins.registry import installed

pytestmark = pytest.mark.usefixtures("one_thread")


def test_missing_images_are_counted_before_anything_runs(
    command: Runner, data: Path, tmp_path: Path, capsys: Out
) -> None:
    (data / "pope/val2014/a.jpg").unlink()
    (data / "MME/MME_Benchmark_release_version/count/0001.png").unlink()
    err = refused(capsys, *command("mme,gqa,pope"))
    assert "mme: 1 of 14 images are not there, 2 of 28 questions are about them:" in err
    assert "pope: 1 of 1 images are not there, 6 of 6 questions are about them:" in err
    assert "val2014/a.jpg" in err
    assert "gqa" not in err
    assert not (tmp_path / "out").exists()
    text = printed(capsys, *command("mme", "--allow-partial"))
    assert "scored 26 of 28, missing 2" in text
    assert json.loads((tmp_path / "out/mme.jsonl.run.json").read_text())["left out"] == {"image not there": 2}


def test_a_damaged_image(command: Runner, data: Path, tmp_path: Path, capsys: Out) -> None:
    """It stops the run, which goes on when the image is mended; or it is left out, if that is allowed."""
    image = data / "mm-vet/images/v1_1.png"
    good = image.read_bytes()
    image.write_bytes(good[:40])
    assert main(command("mm-vet")) == 2
    assert "v1_1.png: not an image" in capsys.readouterr().err
    assert (tmp_path / "out/mm-vet.part-0.jsonl").read_text().count("\n") == 1
    assert main(command("mm-vet", "--allow-partial", out="some")) == 0
    assert "mm-vet: 1 of its questions left out: " in capsys.readouterr().err
    assert said(tmp_path / "some", "mm-vet").keys() == {"v1_0", "v1_2"}
    image.write_bytes(good)
    assert main(command("mm-vet")) == 0
    assert len(said(tmp_path / "out", "mm-vet")) == 3


def test_a_broken_model_is_refused(command: Runner, tiny_folder: Path, tmp_path: Path, capsys: Out) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(tiny_folder, broken)
    weights = broken / "llm/weights.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert "its sha256 differs from manifest.json" in refused(capsys, *command("pope", model=broken))
    assert not (tmp_path / "out").exists()
    assert "no such model folder" in refused(capsys, *command("pope", model=tmp_path / "nowhere"))


def other_data(data: Path) -> None:
    file = data / "pope/llava_pope_test.jsonl"
    file.write_text(file.read_text().replace("a cat", "a cow"))
    for labels in (data / "pope/coco").iterdir():
        labels.write_text(labels.read_text().replace("a cat", "a cow"))


@pytest.mark.parametrize(
    ("flags", "change", "message"),
    [
        (["--batch-size", "2"], None, "batch_size: 1 before, 2 now"),
        (
            ["--max-new-tokens", "4"],
            None,
            "decoding: max_new_tokens 3, temperature 0.0 before, max_new_tokens 4",
        ),
        (["--dtype", "bfloat16"], None, "dtype: float32 before, bfloat16 now"),
        (["--no-prefix-reuse"], None, "prefix_reuse: True before, False now"),
        ([], other_data, "questions sha256: "),
    ],
    ids=["batch", "length", "dtype", "reuse", "data"],
)
def test_answers_of_another_run_are_left_alone(
    flags: list[str], change: Any, message: str, command: Runner, data: Path, tmp_path: Path, capsys: Out
) -> None:
    assert main(command("pope")) == 0
    capsys.readouterr()
    before = (tmp_path / "out/pope.jsonl").read_bytes()
    if change:
        change(data)
    err = refused(capsys, *command("pope", *flags))
    assert "pope.jsonl.run.json: holds answers of a different run:" in err
    assert message in err
    assert "name another --out" in err
    assert (tmp_path / "out/pope.jsonl").read_bytes() == before


def test_images_that_have_changed_since_they_were_asked_about(
    command: Runner, data: Path, tmp_path: Path, capsys: Out
) -> None:
    """Known by their bytes: a touched image is the same, another one under its name is not."""
    image = data / "pope/val2014/a.jpg"
    assert main(command("pope")) == 0
    capsys.readouterr()
    line = json.loads((tmp_path / "out/pope.jsonl").read_text().splitlines()[0])
    assert line["metadata"]["image"] == hashlib.sha256(image.read_bytes()).hexdigest()
    os.utime(image, (1, 1))
    assert main(command("pope")) == 0
    capsys.readouterr()
    good, size = image.read_bytes(), image.stat().st_size
    image.write_bytes(good[:-3] + b"\0" + good[-2:])
    assert image.stat().st_size == size
    before = (tmp_path / "out/pope.jsonl").read_bytes()
    err = refused(capsys, *command("pope"))
    assert "pope.jsonl.run.json: holds answers about images that have changed since: " in err
    assert "val2014/a.jpg; name another --out" in err
    assert (tmp_path / "out/pope.jsonl").read_bytes() == before
    (tmp_path / "out/pope.jsonl").rename(tmp_path / "out/pope.part-0.jsonl")
    with (tmp_path / "out/pope.part-0.jsonl").open("a") as file:
        file.write('{"half')
    assert "images that have changed" in refused(capsys, *command("pope")), "of a run that was killed, too"
    image.write_bytes(good)
    assert main(command("pope")) == 0


def test_image_digests_of_another_number_or_kind_count_as_changed(
    command: Runner, tmp_path: Path, capsys: Out
) -> None:
    assert main(command("pope")) == 0
    capsys.readouterr()
    log = tmp_path / "out/pope.jsonl"
    line = json.loads(log.read_text().splitlines()[0])
    digest = line["metadata"]["image"]
    for other in (5, [], "", None, f"{digest} {digest}"):
        log.write_text(json.dumps({**line, "metadata": {**line["metadata"], "image": other}}) + "\n")
        assert "a.jpg; name another --out" in refused(capsys, *command("pope")), other


def test_other_versions_are_told(command: Runner, tmp_path: Path, capsys: Out) -> None:
    assert main(command("pope")) == 0
    account = tmp_path / "out/pope.jsonl.run.json"
    told = json.loads(account.read_text())
    account.write_text(json.dumps({**told, "versions": {**told["versions"], "torch": "1.0"}}))
    assert main(command("pope")) == 0
    assert "pope: packages have changed since this run began: torch 1.0 → " in capsys.readouterr().err


def without_checksum(line: str) -> dict[str, Any]:
    """A line as earlier versions wrote it; one whose checksum is wrong is asked again instead of refused."""
    row = json.loads(line)
    del row["metadata"]["sha256"]
    return row


def change_row(key: str, value: Any) -> Callable[[list[str]], list[str]]:
    return lambda lines: [json.dumps(without_checksum(lines[0]) | {key: value}), *lines[1:]]


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (change_row("metadata", {"id": "77"}), "pope.jsonl:1: an answer to no question of pope, id 77"),
        (change_row("metadata", None), "pope.jsonl:1: metadata: expected a JSON object"),
        (change_row("prompt", "What?"), "pope.jsonl:1: question 1 was asked with another prompt"),
        (change_row("text", None), "pope.jsonl:1: 'text' is None"),
        (
            lambda lines: [*lines, json.dumps(without_checksum(lines[0]) | {"text": "x"})],
            "a second answer to question 1",
        ),
    ],
    ids=["unknown", "nameless", "prompt", "text", "twice"],
)
def test_answers_that_cannot_be_ours(edit, message, command: Runner, tmp_path: Path, capsys: Out) -> None:
    assert main(command("pope")) == 0
    capsys.readouterr()
    path = tmp_path / "out/pope.jsonl"
    path.write_text("\n".join(edit(path.read_text().splitlines())) + "\n")
    assert main(command("pope")) == 2
    assert message in capsys.readouterr().err


def test_killed_between_merging_and_clearing(command: Runner, tmp_path: Path) -> None:
    """The same line in both files is one answer."""
    assert main(command("pope")) == 0
    path = tmp_path / "out/pope.jsonl"
    before = path.read_bytes()
    (tmp_path / "out/pope.part-3.jsonl").write_bytes(before)
    assert main(command("pope")) == 0
    assert path.read_bytes() == before
    assert not list((tmp_path / "out").glob("*.part*"))


def test_answers_of_nobody(command: Runner, tmp_path: Path, capsys: Out) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/pope.jsonl").write_text("{}\n")
    err = refused(capsys, *command("pope"))
    assert "answers of an unknown run, without pope.jsonl.run.json" in err


def test_two_runs_at_once(command: Runner, tmp_path: Path, capsys: Out) -> None:
    import fcntl

    assert main(command("pope")) == 0
    (tmp_path / "out/pope.jsonl").unlink()
    with (tmp_path / "out/pope.part-0.jsonl").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert main(command("pope")) == 2
    assert "pope.part-0.jsonl: another process is writing this file" in capsys.readouterr().err
    assert main(command("pope")) == 0
    assert len(said(tmp_path / "out", "pope")) == 6


@pytest.mark.parametrize(
    ("names", "flags", "message"),
    [
        ("poope", [], "unknown benchmark 'poope'"),
        ("pope,pope", [], "--benchmarks: pope appears twice"),
        ("pope", ["--set", "gqa.labels=x"], "gqa is not among --benchmarks pope"),
        ("pope", ["--set", "pope"], "expected NAME.FIELD=VALUE"),
        ("pope", ["--set", "pope.labls=x"], "pope: unrecognized arguments: --labls=x"),
        ("mmbench", ["--set", "mmbench.split=val"], "invalid choice: 'val'"),
        ("mmbench", ["--strictness", "normalized"], "only the official rule exists for mmbench"),
        ("pope", ["--device", "warp"], "device 'warp' cannot be used"),
        ("pope", ["--set", "pope.questions=nowhere.jsonl"], "nowhere.jsonl: cannot read this file"),
    ],
)
def test_what_cannot_be_run(names, flags, message, command: Runner, tmp_path: Path, capsys: Out) -> None:
    assert message in refused(capsys, *command(names, *flags))
    assert not (tmp_path / "out").exists()


def test_nothing_to_run(tiny_folder: Path, tmp_path: Path, capsys: Out) -> None:
    (tmp_path / "empty").mkdir()
    flags = ["--benchmarks", "all", "--data", tmp_path / "empty"]
    assert "holds the files of no benchmark; looked for easy-vqa, gqa," in refused(
        capsys, "run", tiny_folder, *flags
    )
    assert "nowhere: no such folder" in refused(capsys, "run", tiny_folder, *flags[:3], tmp_path / "nowhere")


def test_all_leaves_out_what_lacks_labels(command: Runner, data: Path, tmp_path: Path, capsys: Out) -> None:
    """Its questions are there, so it could be asked, but there would be no figure."""
    (data / "gqa/data/testdev_balanced_questions.json").unlink()
    (data / "textvqa/TextVQA_0.5.1_val.json").unlink()
    (data / "pope/coco/coco_pope_popular.json").unlink()
    for path in (data / "MME/MME_Benchmark_release_version").rglob("*.txt"):
        path.unlink()
    (data / "mmbench/mmbench_dev_20230712.tsv").unlink()
    (data / "mm-vet/llava-mm-vet.jsonl").unlink()
    assert main(command("all")) == 0
    err = capsys.readouterr().err
    left_out = {line.split(": ")[1]: line for line in err.splitlines() if line.startswith("left out: ")}
    assert left_out.keys() == set(installed().names("benchmark")) - {"scienceqa", "vqa-v2"}
    assert "testdev_balanced_questions.json does not exist" in left_out["gqa"]
    assert "expected coco_pope_popular.json" in left_out["pope"]
    assert "holds no labels" in left_out["mme"]
    assert {path.name for path in (tmp_path / "out").glob("*.jsonl")} == {"scienceqa.jsonl", "vqa-v2.jsonl"}
    assert "cannot read this file" in refused(capsys, *command("gqa"))  # named: refused, not left out


def test_a_value_keeps_its_underscores(command: Runner, data: Path, tmp_path: Path) -> None:
    path = (data / "pope/llava_pope_test.jsonl").rename(tmp_path / "my_own_pope.jsonl")
    assert main(command("pope", "--set", f"pope.questions={path}")) == 0
