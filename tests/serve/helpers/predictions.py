"""Files of rows and of answers."""

import json


def write_rows(path, rows):
    """Write rows, or lines as they are."""
    path.write_text("".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows))


def read_lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def answers(path):
    """The answers by id."""
    lines = read_lines(path)
    texts = {line["id"]: line["answer"] for line in lines}
    assert len(texts) == len(lines), "a row is answered twice"
    return texts


def question_of(body):
    """The text of the last message of a request."""
    content = body["messages"][-1]["content"]
    return content if isinstance(content, str) else content[-1]["text"]
