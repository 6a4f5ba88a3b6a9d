"""Draws the pictures of this folder and writes the questions about them, the same on every machine."""

from __future__ import annotations

import json
import random
from math import cos, pi, sin
from pathlib import Path

from PIL import Image, ImageDraw

SIDE, SCALE = 64, 4
COLOURS = {
    "red": (214, 48, 49),
    "green": (39, 160, 80),
    "blue": (52, 110, 220),
    "yellow": (245, 200, 40),
    "purple": (140, 80, 190),
    "gray": (120, 120, 120),
}
THINGS = {
    "apple": "an apple",
    "sun": "the sun",
    "house": "a house",
    "tree": "a tree",
    "star": "a star",
    "fish": "a fish",
}
ALIVE = ("apple", "fish", "tree")
Points = list[tuple[float, float]]


def circle(x: float, y: float, radius: float) -> Points:
    return [(x + radius * cos(i * pi / 20), y + radius * sin(i * pi / 20)) for i in range(40)]


def shapes(thing: str) -> list[Points]:
    """The polygons of a thing, in a square from -1 to 1."""
    if thing == "apple":
        return [
            circle(-0.25, 0.1, 0.6),
            circle(0.25, 0.1, 0.6),
            [(-0.05, -0.3), (0.1, -0.9), (0.2, -0.85), (0.05, -0.3)],
        ]
    if thing == "sun":
        turns = [i * pi / 4 for i in range(8)]
        rays = [
            [
                (0.65 * cos(a - 0.2), 0.65 * sin(a - 0.2)),
                (cos(a), sin(a)),
                (0.65 * cos(a + 0.2), 0.65 * sin(a + 0.2)),
            ]
            for a in turns
        ]
        return [circle(0, 0, 0.5), *rays]
    if thing == "house":
        return [[(-0.65, 0), (0.65, 0), (0.65, 0.9), (-0.65, 0.9)], [(-0.9, -0.1), (0, -0.9), (0.9, -0.1)]]
    if thing == "tree":
        return [
            [(-0.12, 0.4), (0.12, 0.4), (0.12, 1), (-0.12, 1)],
            [(-0.7, 0.5), (0, -0.4), (0.7, 0.5)],
            [(-0.5, 0), (0, -1), (0.5, 0)],
        ]
    if thing == "star":
        return [[((1, 0.4)[i % 2] * sin(i * pi / 5), -(1, 0.4)[i % 2] * cos(i * pi / 5)) for i in range(10)]]
    return [[(x, 0.6 * y) for x, y in circle(-0.2, 0, 0.75)], [(0.4, 0), (1, -0.5), (1, 0.5)]]


def draw(thing: str, colour: str, chance: random.Random) -> Image.Image:
    """A thing at a random place, of a random size, slightly turned, on a light background."""
    size, turn = chance.uniform(16, 26), chance.uniform(-0.3, 0.3)
    x, y = (chance.uniform(size + 2, SIDE - size - 2) for _ in range(2))
    ground = tuple(chance.randrange(225, 256) for _ in range(3))
    image = Image.new("RGB", (SIDE * SCALE, SIDE * SCALE), ground)
    pen = ImageDraw.Draw(image)
    for points in shapes(thing):
        turned = [(a * cos(turn) - b * sin(turn), a * sin(turn) + b * cos(turn)) for a, b in points]
        pen.polygon(
            [((x + size * a) * SCALE, (y + size * b) * SCALE) for a, b in turned], fill=COLOURS[colour]
        )
    return image.resize((SIDE, SIDE), Image.Resampling.BOX)


def row(name: str, kind: str, question: str, answer: str) -> dict[str, object]:
    turns = [{"from": "human", "value": f"<image>\n{question}"}, {"from": "gpt", "value": answer}]
    return {"id": f"{name}-{kind}", "image": f"{name}.png", "conversations": turns, "category": kind}


def main() -> None:
    folder = Path(__file__).parent
    (folder / "images").mkdir(exist_ok=True)
    chance, rows = random.Random(0), []
    for thing, phrase in THINGS.items():
        for colour in COLOURS:
            for number in (1, 2):
                name = f"{colour}-{thing}-{number}"
                draw(thing, colour, chance).save(folder / "images" / f"{name}.png", optimize=True)
                rows.append(row(name, "thing", "what is this?", phrase))
                rows.append(row(name, "alive", "is it alive?", "yes" if thing in ALIVE else "no"))
    (folder / "data.json").write_text("[\n" + ",\n".join(map(json.dumps, rows)) + "\n]\n", encoding="utf-8")


if __name__ == "__main__":
    main()
