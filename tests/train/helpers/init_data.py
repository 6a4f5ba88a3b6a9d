"""Pictures, and rows about them, for `vlm-train init`."""

from shards import png


def row(i, answer="red", image=None):
    turns = [{"from": "human", "value": "<image>\nwhat colour?"}, {"from": "gpt", "value": answer}]
    return {"id": str(i), "image": image or f"{i}.png", "conversations": turns}


def pictures(folder, count=12):
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        (folder / f"{i}.png").write_bytes(png((20 * i, 50, 50)))
