"""The state of a stream in a file: what is watched after it has the bits of never having stopped."""

import pytest
import torch
from state_file_cases import manifest_of, rewrite
from watch_cases import LLAVA, QUESTION, frames, on_transformers, watched

from vlm_core.errors import UserError
from vlm_core.generation.conversation import Conversation
from vlm_core.generation.generate import Session
from vlm_core.generation.sampling import GenerationConfig
from vlm_core.generation.session_file import load_session, read_manifest
from vlm_core.generation.watch.kept_states import KEEP, Keep
from vlm_core.generation.watch.stream_file import load_stream, save_stream
from vlm_core.generation.watch.watcher import FrameLimit
from vlm_core.states.tensor_file import TensorFile
from vlm_core.text.template import TEMPLATES

SHORT_ANSWER = GenerationConfig(max_new_tokens=6)


@pytest.fixture
def model(tiny_model):
    return tiny_model


def read(model, seen, *, as_video=False, keep=KEEP):
    watcher = Session(model).watch(seen, LLAVA, record=True, as_video=as_video, keep=keep)
    list(watcher)
    return watcher


def logits(watcher):
    return watcher.fork()._asked([QUESTION]).next_logits


@pytest.mark.parametrize("as_video", [False, True])
@pytest.mark.parametrize("split", [1, 3])
def test_a_stream_continues_bit_by_bit(model, tmp_path, as_video, split):
    seen = frames(5)
    save_stream(read(model, seen[:split], as_video=as_video), tmp_path / "s")
    resumed = load_stream(tmp_path / "s", model, LLAVA, seen[split:])
    list(resumed)
    whole = read(model, seen, as_video=as_video)
    assert torch.equal(logits(resumed), logits(whole))
    assert resumed.read == whole.read
    assert (resumed.frames, resumed.time, resumed.as_video) == (5, 4, as_video)
    save_stream(resumed, tmp_path / "resumed")
    save_stream(whole, tmp_path / "whole")
    assert (tmp_path / "resumed").read_bytes() == (tmp_path / "whole").read_bytes()


def test_a_transformers_cache_continues(tmp_path_factory):
    model, folder = on_transformers(tmp_path_factory.mktemp("llm"), "llama"), tmp_path_factory.mktemp("s")
    seen = frames(3)
    save_stream(read(model, seen[:2]), folder / "s")
    resumed = load_stream(folder / "s", model, LLAVA, seen[2:])
    list(resumed)
    assert torch.equal(logits(resumed), logits(read(model, seen)))


def test_questions_alone(model, tmp_path):
    watcher = read(model, frames(3))
    save_stream(watcher, tmp_path / "s")
    resumed = load_stream(tmp_path / "s", model, LLAVA)
    questions = ["red?", QUESTION]
    assert resumed.fork().answers(questions, SHORT_ANSWER) == watcher.fork().answers(questions, SHORT_ANSWER)


def test_what_the_manifest_says(model, tmp_path):
    watcher = read(model, frames(4, seconds=2.0))
    save_stream(watcher, tmp_path / "s")
    manifest = read_manifest(tmp_path / "s")
    first = {"frames": 1, "time": 0.0}
    assert manifest.stream.model_dump() == {"frames": 4, "time": 6.0, "as_video": False, "kept": [first]}
    (piece,) = manifest.read
    assert (piece.kind, piece.tokens) == ("frames", manifest.positions)
    whole = watcher._prompt.whole("", [model.image_tokens(pixels) for _, pixels in frames(4)])
    last = max(i for i, image in enumerate(whole.image_mask) if image)
    assert manifest.positions == last + 1


def test_the_digest_is_that_of_the_frames_in_order(model):
    seen = [pixels for _, pixels in frames(3)]
    digests = [
        read(model, enumerate(images)).read.sha256
        for images in (seen, list(seen), seen[::-1], seen[:2], [*seen[:2], seen[2] + 1])
    ]
    assert digests[0] == digests[1]
    assert len(set(digests)) == 4


def at_kept(watcher):
    """The next logits of a question at each kept state."""
    return [fork._asked([QUESTION]).next_logits for fork in watcher.kept.forks]


@pytest.mark.parametrize("as_video", [False, True])
@pytest.mark.parametrize("split", [1, 6, 11])
def test_kept_states_are_those_of_a_stream_that_never_stopped(model, tmp_path, as_video, split):
    """Some of them are dropped on the way, before and after the stop."""
    seen, keep = frames(14, seconds=10.0), Keep(every=15, last=2, older=2)
    save_stream(read(model, seen[:split], as_video=as_video, keep=keep), tmp_path / "s")
    resumed = load_stream(tmp_path / "s", model, LLAVA, seen[split:], keep=keep)
    list(resumed)
    whole = read(model, seen, as_video=as_video, keep=keep)
    assert resumed.kept.times == whole.kept.times
    assert len(whole.kept.times) == 4
    assert [fork.frames for fork in resumed.kept.forks] == [fork.frames for fork in whole.kept.forks]
    assert all(map(torch.equal, at_kept(resumed), at_kept(whole)))
    time = whole.kept.times[1]
    rewound, original = resumed.at(time + 1), whole.at(time + 1)
    assert rewound.time == original.time == time
    assert rewound.answers([QUESTION], SHORT_ANSWER) == original.answers([QUESTION], SHORT_ANSWER)
    for name, watcher in (("resumed", resumed), ("whole", whole)):
        save_stream(watcher, tmp_path / name)
    assert (tmp_path / "resumed").read_bytes() == (tmp_path / "whole").read_bytes()


def test_kept_transformers_caches_continue(tmp_path_factory):
    model, folder = on_transformers(tmp_path_factory.mktemp("llm"), "llama"), tmp_path_factory.mktemp("s")
    seen, keep = frames(4, seconds=10.0), Keep(every=10)
    save_stream(read(model, seen[:2], keep=keep), folder / "s")
    resumed, whole = (
        load_stream(folder / "s", model, LLAVA, seen[2:], keep=keep),
        read(model, seen, keep=keep),
    )
    list(resumed)
    assert [fork.nbytes for fork in resumed.kept.forks] == [fork.nbytes for fork in whole.kept.forks]
    assert len(whole.kept.forks) == 4
    assert all(map(torch.equal, at_kept(resumed), at_kept(whole)))


def test_kept_states_beyond_the_limits_are_not_read(model, tmp_path, monkeypatch):
    watcher = read(model, frames(8, seconds=10.0), keep=Keep(every=10))
    save_stream(watcher, tmp_path / "s")
    assert watcher.kept.times == [10.0 * i for i in range(8)]
    names, original = [], TensorFile._read
    monkeypatch.setattr(TensorFile, "_read", lambda self, name: names.append(name) or original(self, name))
    monkeypatch.setattr("vlm_core.states.tensor_file.READ_FIRST", 0)
    for keep, times in (
        (Keep(every=10, last=2, older=1), [0, 60, 70]),
        (Keep(every=10, max_bytes=2 * watcher.nbytes), [60, 70]),
        (None, []),
    ):
        names.clear()
        resumed = load_stream(tmp_path / "s", model, LLAVA, keep=keep)
        assert resumed.kept.times == times
        assert {n.split(".")[1] for n in names if n.startswith("kept.")} == {str(int(t // 10)) for t in times}


def test_a_file_without_kept_states_keeps_the_present(model, tmp_path):
    save_stream(read(model, frames(3, seconds=10.0), keep=None), tmp_path / "s")
    assert read_manifest(tmp_path / "s").stream.kept == []
    resumed = load_stream(tmp_path / "s", model, LLAVA)
    assert resumed.kept.times == [20]
    with pytest.raises(UserError, match=r"the oldest kept state is that at 00:00:20"):
        resumed.at(10)


def test_times_kept_states_and_limits_go_on(model, tmp_path):
    save_stream(read(model, frames(3, seconds=10.0), keep=Keep(every=15)), tmp_path / "s")
    later = [(time + 20.0, pixels) for time, pixels in frames(3, seconds=10.0)]
    resumed = load_stream(tmp_path / "s", model, LLAVA, later, keep=Keep(every=15), max_frames=5)
    assert resumed.kept.times == [0, 20]
    assert resumed.at("0:20").frames == 3
    assert resumed.at(10).frames == 1
    with pytest.raises(UserError, match="comes after that at 00:00:20"):
        resumed.append(19, later[0][1])
    with pytest.raises(FrameLimit, match="5 frames have been read"):
        list(resumed)
    assert resumed.kept.times == [0, 20, 30]


def test_what_cannot_be_saved(model, tmp_path):
    with pytest.raises(UserError, match="nothing to save: no frame has been read"):
        save_stream(Session(model).watch([], LLAVA, record=True), tmp_path / "s")
    with pytest.raises(AssertionError, match="record=True"):
        save_stream(watched(model, frames(1)), tmp_path / "s")
    (tmp_path / "photo.png").write_text("precious")
    with pytest.raises(UserError, match="exists and is no state file"):
        save_stream(read(model, frames(1)), tmp_path / "photo.png")


def test_files_of_other_kinds_are_refused(model, tmp_path):
    save_stream(read(model, frames(2)), tmp_path / "stream")
    talk = Conversation(model, LLAVA)
    list(talk.ask("red?", SHORT_ANSWER))
    talk.save(tmp_path / "talk")
    with pytest.raises(UserError, match="talk: the state of a conversation or session, not of a stream"):
        load_stream(tmp_path / "talk", model, LLAVA)
    for load in (load_session, Conversation.load):
        with pytest.raises(UserError, match="stream: the state of a stream, not of a session"):
            load(tmp_path / "stream", model, LLAVA)
    with pytest.raises(UserError, match="template: other patterns"):
        load_stream(tmp_path / "stream", model, TEMPLATES["short"])


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"stream": {"frames": 0, "time": 1.0}}, "damaged: stream.frames"),
        ({"stream": {"frames": 2, "time": -1.0}}, "damaged: stream.time"),
        ({"stream": {"frames": 2, "time": 1.0, "more": 1}}, "damaged: stream.more"),
        (
            {"stream": {"frames": 2, "time": 1.0, "kept": [{"frames": 0, "time": 0.0}]}},
            "damaged: stream.kept.0.frames",
        ),
        (
            {"stream": {"frames": 2, "time": 1.0, "kept": [{"frames": 3, "time": 0.0}]}},
            "not in the order of their",
        ),
        (
            {"stream": {"frames": 2, "time": 1.0, "kept": [{"frames": 1, "time": 2.0}]}},
            "not in the order of their",
        ),
        (
            {"stream": {"frames": 2, "time": 1.0, "kept": [{"frames": 1, "time": 0.0}] * 2}},
            "not in the order of their",
        ),
        ({"stream": {"frames": 2, "time": 1.0, "kept": []}}, "damaged: unexpected tensor 'kept.0."),
        (
            {"stream": {"frames": 2, "time": 1.0, "kept": [{"frames": n, "time": n - 1.0} for n in (1, 2)]}},
            "kept state at 00:00:01: ",
        ),
        ({"sequences": 2}, "damaged: a stream has one sequence"),
        ({"ends": [[1]]}, "damaged: a stream has no messages"),
        ({"positions": 7}, "damaged: positions is 7"),
    ],
)
def test_lying_manifests(model, tmp_path, facts, message):
    save_stream(read(model, frames(2)), file := tmp_path / "s")
    rewrite(file, facts=facts)
    with pytest.raises(UserError, match=message):
        load_stream(file, model, LLAVA)


def test_other_tensors(model, tmp_path):
    save_stream(read(model, frames(2)), file := tmp_path / "s")
    rewrite(file, {"image.0": torch.zeros(1)})
    with pytest.raises(UserError, match=r"damaged: unexpected tensor 'image.0'"):
        load_stream(file, model, LLAVA)
    rewrite(file, {"image.0": None, "state.ssm": torch.zeros(2, 2)})
    with pytest.raises(UserError, match="'ssm' has shape"):
        load_stream(file, model, LLAVA)
    assert manifest_of(file)["stream"]["frames"] == 2


def test_damaged_kept_states(model, tmp_path):
    for tensors, message in (
        ({"kept.0.ssm": torch.zeros(2, 2)}, "kept state at 00:00:00: 'ssm' has shape"),
        ({"kept.0.ssm": None}, "kept state at 00:00:00: .*ssm"),
        ({"kept.0.more": torch.zeros(1)}, "kept state at 00:00:00: .*more"),
        ({"kept.1.ssm": torch.zeros(1)}, "damaged: unexpected tensor 'kept.1.ssm'"),
        ({"kept.x": torch.zeros(1)}, "damaged: unexpected tensor 'kept.x'"),
    ):
        save_stream(read(model, frames(2)), file := tmp_path / "s")
        rewrite(file, tensors)
        with pytest.raises(UserError, match=message):
            load_stream(file, model, LLAVA)
    save_stream(read(model, frames(2)), file := tmp_path / "s")
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)
    with pytest.raises(
        UserError, match=r"s: damaged: the content of '(kept\.0|state)\.\w+' differs from its hash"
    ):
        load_stream(file, model, LLAVA)
