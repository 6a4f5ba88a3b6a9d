"""A tokenizer of one id a character, and samples as readable text."""

from vlm_core.interfaces import Tokenizer
from vlm_core.text.render import Message
from vlm_core.text.template import Template

EOS = 0


class Letters(Tokenizer):
    """One id a character, so that expectations can be read."""

    eos_id = EOS

    def encode(self, text):
        return [ord(c) for c in text]

    def decode(self, ids):
        return "".join(chr(i) for i in ids if i)

    def __len__(self):
        return 0x110000

    def save(self, folder):
        raise NotImplementedError


class WithBOS(Letters):
    bos_id = 1


def user(*parts):
    return Message("user", parts)


def said(text):
    return Message("assistant", (text,))


def picture(sample):
    """The sample as text: `#` is an image position, `$` EOS, and targets stand in capitals."""
    out = ""
    for i, image, target in zip(sample.input_ids, sample.image_mask, sample.loss_mask, strict=True):
        c = "#" if image else "$" if i == EOS else chr(i)
        assert not (image and target)
        out += (c.upper() if c != "$" else "€") if target else c
    return out


SHORT = Template(system="s.", user=" u:{text}", assistant_prompt=" a:", assistant=" {text}{eos}")
