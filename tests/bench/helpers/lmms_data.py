"""Tiny data sets with the columns and the file layout of those that lmms-eval's tasks read."""

import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

COLOURS = ("red", "green", "blue", "white", "black", "yellow")
IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def image(n):
    """An encoded image as `datasets` stores it."""
    buffer = io.BytesIO()
    Image.new("RGB", (40 + n, 30), COLOURS[n % len(COLOURS)]).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": f"{n}.png"}


def write(path, rows, described=True):
    """A parquet file; `described` adds the note of `datasets` that says which columns are images."""
    names = rows[0].keys()
    images = [name for name in names if name.startswith("image") and name != "image_path"]
    columns = {
        name: pa.array([row[name] for row in rows], IMAGE if name in images else None) for name in names
    }
    table = pa.table(columns)
    if described:
        kinds = {name: _kind(table.schema.field(name).type, name in images) for name in names}
        note = {"info": {"features": kinds}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(note)})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)


def _kind(of, is_image):
    if is_image:
        return {"_type": "Image"}
    if pa.types.is_list(of):
        return {"feature": {"dtype": "string", "_type": "Value"}, "_type": "List"}
    if pa.types.is_struct(of):
        return {field.name: {"dtype": "string", "_type": "Value"} for field in of}
    return {"dtype": "int64" if pa.types.is_integer(of) else "string", "_type": "Value"}


def mmmu(n, question, options, answer):
    """A row of MMMU: options are Python source, images are up to seven columns."""
    images = {f"image_{i}": image(n) if f"<image {i}>" in question else None for i in range(1, 8)}
    kind = "multiple-choice" if options else "open"
    return {
        "id": f"validation_Art_{n + 1}",
        "question": question,
        "options": repr(options),
        "explanation": "",
        **images,
        "img_type": "['Paintings']",
        "answer": answer,
        "topic_difficulty": "Easy",
        "question_type": kind,
        "subfield": "Drawing",
    }


def mmstar(n, question, answer):
    """A row of MMStar; the options stand in the question."""
    return {
        "index": n,
        "question": question,
        "image": image(n),
        "answer": answer,
        "category": "math",
        "l2_category": "geometry",
        "meta_info": {"source": "MMBench", "split": "val", "image_path": f"{n}.jpg"},
    }


def docvqa(n, question, answers):
    """A row of DocVQA."""
    return {
        "questionId": str(n),
        "question": question,
        "question_types": ["layout"],
        "image": image(n),
        "docId": n,
        "ucsf_document_id": "a",
        "ucsf_document_page_no": "1",
        "answers": answers,
        "data_split": "val",
    }


def write_data_sets(folder, answers):
    """All seven data sets with two questions each; `answers` has the right ones by name of the recipe.

    Returns the prompts that lmms-eval's tasks make, by the same names.
    """
    a = answers
    choose = "\nAnswer with the option's letter from the given choices directly"
    one, phrase = (
        "\nAnswer the question with a single word.",
        "\nAnswer the question using a single word or phrase.",
    )
    first, second = "what color is this?", "what color is it and this?"
    rows = {
        "MMMU/data/validation-00000-of-00001.parquet": [
            mmmu(0, f"<image 1> {first}", [], a["mmmu_val"][0]),
            mmmu(1, f"{second} <image 2> <image 1>", [], a["mmmu_val"][1]),
        ],
        "MMStar/mmstar.parquet": [mmstar(n, q, "A") for n, q in enumerate((first, second))],
        "ai2d/data/test-00000-of-00001.parquet": [
            {"question": q, "options": ["red", "blue"], "answer": "1", "image": image(n)}
            for n, q in enumerate((first, second))
        ],
        "ChartQA/data/test-00000-of-00001.parquet": [
            {"type": kind, "question": q, "answer": a["chartqa"][n], "image": image(n)}
            for n, (q, kind) in enumerate(((first, "human_test"), (second, "augmented_test")))
        ],
        "DocVQA/DocVQA/validation-00000-of-00002.parquet": [docvqa(0, first, [a["docvqa_val"][0]])],
        "DocVQA/DocVQA/validation-00001-of-00002.parquet": [docvqa(1, second, ["none", a["docvqa_val"][1]])],
        "OCRBench/data/test-00000-of-00001.parquet": [
            {
                "dataset": "IIIT5K",
                "question": q,
                "question_type": "Regular Text Recognition",
                "answer": [a["ocrbench"][n]],
                "image": image(n),
            }
            for n, q in enumerate((first, second))
        ],
        "RealWorldQA/data/test-00000-of-00001.parquet": [
            {"image": image(n), "image_path": f"{n}.webp", "question": q, "answer": a["realworldqa"][n]}
            for n, q in enumerate((first, second))
        ],
    }
    for name, own in rows.items():
        write(folder / name, own, described=not name.startswith("MMStar"))
    return {
        "mmmu_val": [f"<image 1> {first}\n\n{phrase[1:]}", f"{second} <image 2> <image 1>\n\n{phrase[1:]}"],
        "mmstar": [f"{q}{choose}" for q in (first, second)],
        "ai2d": [f"{q}\nA. red\nB. blue{choose}." for q in (first, second)],
        "chartqa": [f"{q}{one}" for q in (first, second)],
        "docvqa_val": [f"{q}{phrase}" for q in (first, second)],
        "ocrbench": [first, second],
        "realworldqa": [first, second],
    }
