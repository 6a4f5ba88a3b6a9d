"""A question about a picture and its answer, as transformers' chat templates take them."""

from PIL import Image

PICTURE = Image.new("RGB", (32, 32), "red")
TALK = [
    {"role": "user", "content": [{"type": "image", "image": PICTURE}, {"type": "text", "text": "color?"}]},
    {"role": "assistant", "content": "red"},
]
