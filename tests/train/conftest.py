"""A run of two stages on a handful of rows that ends within seconds."""

import io
import json

import numpy as np
import pytest
import yaml
from PIL import Image
from resume_helpers import go, new_process

from vlm_core.cli.output import console_records
from vlm_core.diagnose.costs.component_costs import ComponentCosts
from vlm_train.engine.trainer import StageTrainer

COLOURS = ["red", "green", "blue", "black", "white", "teal"]


@pytest.fixture(autouse=True)
def _new_process():
    """Each test begins as a process does."""
    yield
    new_process()


@pytest.fixture(autouse=True)
def console():
    """Log records appear on stdout and stderr, as those of the command do."""
    with console_records("vlm_core", "vlm_train"):
        yield


COSTS = {}


@pytest.fixture(autouse=True)
def known_costs(monkeypatch):
    """Costs of a stage that were counted for one run are not counted again for a model of equal modules and shapes."""
    count = ComponentCosts.of_stage

    def of_stage(self, trainable, batch, length, *, bf16=False, backward=True, most_views=False):
        model, options = self._model, {"bf16": bf16, "backward": backward, "most_views": most_views}
        shapes = tuple((tuple(p.shape), p.dtype) for p in model.parameters())
        inputs = self._size, self._grid, self.tokens, self.features, repr(model.view_counts)
        key = repr(model), shapes, inputs, self._backend, self._checkpointing
        key = *key, trainable, batch, length, *options.values()
        if key not in COSTS:
            COSTS[key] = count(self, trainable, batch, length, **options)
        return COSTS[key]

    monkeypatch.setattr(ComponentCosts, "of_stage", of_stage)


@pytest.fixture(autouse=True)
def small_pictures(monkeypatch):
    """PNG files of plots hold noise: drawing them takes longer than the runs. The tests of plots draw them."""
    from matplotlib.figure import Figure

    noise, png = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8), io.BytesIO()
    Image.fromarray(noise).save(png, "png")
    draw = Figure.savefig

    def savefig(self, file, *, format=None, dpi="figure", metadata=None):
        if format == "png":
            file.write(png.getvalue())
        else:
            draw(self, file, format=format, dpi=dpi, metadata=metadata)

    monkeypatch.setattr(Figure, "savefig", savefig)


@pytest.fixture
def killed_at(monkeypatch):
    """`killed_at(number, step)` interrupts training once, after that step of that stage."""

    def arm(number, step, after="_record"):
        done, killed = getattr(StageTrainer, after), []

        def kill(self, position, *args):
            done(self, position, *args)
            if (self.number, position.step) == (number, step) and not killed:
                killed.append(position)
                raise KeyboardInterrupt

        monkeypatch.setattr(StageTrainer, after, kill)

    return arm


def rows(count):
    """Uniform pictures and their colours, every third row without a picture."""
    for i in range(count):
        colour = COLOURS[i % len(COLOURS)]
        image = {} if i % 3 == 2 else {"image": f"{colour}.png"}
        asked = f"is {colour} a color?" if not image else "<image>\nwhat color is it?"
        said = "yes" if not image else colour
        turns = [{"from": "human", "value": asked}, {"from": "gpt", "value": said}]
        yield {"id": str(i), "conversations": turns, "category": "text" if not image else "picture", **image}


@pytest.fixture
def run_spec(tiny_spec, tmp_path):
    """`run_spec(**changes)` writes a spec with a train section and returns its path."""
    for colour in COLOURS:
        Image.new("RGB", (20, 30), colour).save(tmp_path / f"{colour}.png")
    (tmp_path / "data.json").write_text(json.dumps(list(rows(18))))
    data = [{"type": "llava", "path": str(tmp_path / "data.json")}]

    def make(output="run", **changes):
        stage = {"data": data, "batch_size": 6, "micro_batch_size": 4, "lr": 3e-3, "steps": 6}
        train = {
            "output": str(tmp_path / output),
            "checkpoint_every": 2,
            "stages": [
                {"name": "align", "trainable": ["connector"], **stage},
                {"name": "instruct", "trainable": ["connector", "llm"], **stage},
            ],
            "held_out_qa": {"data": data, "samples": 9, "batch_size": 7, "max_new_tokens": 3},
            **changes,
        }
        path = tmp_path / "spec.yaml"
        path.write_text(yaml.safe_dump({**tiny_spec, "train": train}))
        return path

    return make


@pytest.fixture
def own_spec(run_spec, tmp_path):
    """One short stage on data of its own; the tokenizer is learnt from a file of its own, too."""
    path = run_spec()
    data = yaml.safe_load(path.read_text())
    (tmp_path / "pictures").mkdir()
    for picture in tmp_path.glob("*.png"):
        Image.open(picture).save(tmp_path / "pictures" / f"{picture.stem}.bmp")  # all of one size
    given = json.loads((tmp_path / "data.json").read_text().replace(".png", ".bmp"))
    for name in ("train", "test", "words"):
        (tmp_path / f"{name}.json").write_text(json.dumps(given))
    source = {"type": "llava", "path": str(tmp_path / "train.json"), "images": str(tmp_path / "pictures")}
    train = data["train"]
    train["stages"] = [{**train["stages"][1], "data": [source], "steps": 4}]
    train["held_out_qa"] |= {"data": [{**source, "path": str(tmp_path / "test.json")}]}
    data["llm"]["tokenizer"] = {
        "vocab_size": 300,
        "dataset": {
            "type": "llava",
            "path": str(tmp_path / "words.json"),
            "images": str(tmp_path / "pictures"),
        },
    }
    path.write_text(yaml.safe_dump(data))
    return path


@pytest.fixture
def begun(own_spec, killed_at):
    """A run that was killed after its first checkpoint."""
    killed_at(0, 3)
    with pytest.raises(KeyboardInterrupt):
        go(own_spec)
    return own_spec
