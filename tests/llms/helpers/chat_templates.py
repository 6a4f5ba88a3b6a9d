"""Chat templates as well-known instruct models publish them, shortened by tools, and a tokenizer with their tokens."""

# ruff: noqa: E501  # quoted as published

from __future__ import annotations

import json
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer

from vlm_core.text.render import Message

SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""How Llama 3 and Qwen 2 divide text into words."""


Words = Callable[..., str]


class Published(NamedTuple):
    """A template, the tokens that it needs, and the end of a turn."""

    source: str
    control: tuple[str, ...]
    eos: str
    end: str
    bos: str | None = None
    rstrip: tuple[str, ...] = ()


_LOOP = "{% for message in messages %}"
_CHATML = (
    _LOOP
    + "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
PUBLISHED = {
    "chatml": Published(_CHATML, ("<|endoftext|>", "<|im_start|>", "<|im_end|>"), "<|im_end|>", "<|im_end|>"),
    "chatml-other-eos": Published(
        _CHATML, ("<|endoftext|>", "<|im_start|>", "<|im_end|>"), "<|endoftext|>", "<|im_end|>"
    ),
    "smollm2": Published(
        _LOOP
        + "{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou are a helpful AI "
        "assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] "
        "+ '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}"
        "{{ '<|im_start|>assistant\n' }}{% endif %}",
        ("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
        "<|im_end|>",
        "<|im_end|>",
        "<|im_start|>",
    ),
    "qwen2.5": Published(
        """{%- if messages[0]['role'] == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}
{%- else %}
    {{- '<|im_start|>system\\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == "user" or (message.role == "assistant" and not message.tool_calls) %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
""",
        ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>"),
        "<|im_end|>",
        "<|im_end|>",
    ),
    "llama-3": Published(
        "{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = '<|start_header_id|>' + "
        "message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim + '<|eot_id|>' %}"
        "{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}{% if add_generation_prompt %}"
        "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}",
        ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        "<|end_of_text|>",
        "<|eot_id|>",
        "<|begin_of_text|>",
    ),
    "vicuna": Published(
        "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}{% set system_message = "
        "messages[0]['content'] %}{% else %}{% set loop_messages = messages %}{% set system_message = 'A chat between "
        "a curious user and an artificial intelligence assistant.' %}{% endif %}{% for message in loop_messages %}"
        "{% if loop.index0 == 0 %}{{ system_message }}{% endif %}{% if message['role'] == 'user' %}{{ ' USER: ' + "
        "message['content'].strip() }}{% elif message['role'] == 'assistant' %}{{ ' ASSISTANT: ' + "
        "message['content'].strip() + eos_token }}{% endif %}{% endfor %}{% if add_generation_prompt %}"
        "{{ ' ASSISTANT:' }}{% endif %}",
        ("<unk>", "<s>", "</s>"),
        "</s>",
        "</s>",
        "<s>",
    ),
    "zephyr": Published(
        _LOOP + "\n{% if message['role'] == 'user' %}\n{{ '<|user|>\n' + message['content'] + eos_token }}\n"
        "{% elif message['role'] == 'system' %}\n{{ '<|system|>\n' + message['content'] + eos_token }}\n"
        "{% elif message['role'] == 'assistant' %}\n{{ '<|assistant|>\n'  + message['content'] + eos_token }}\n"
        "{% endif %}\n{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n{% endif %}\n{% endfor %}",
        ("<unk>", "<s>", "</s>"),
        "</s>",
        "</s>",
        "<s>",
    ),
    "mistral": Published(
        "{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
        "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}{% elif message['role'] == "
        "'assistant' %}{{ ' ' + message['content'] + eos_token}}{% endif %}{% endfor %}",
        ("<unk>", "<s>", "</s>"),
        "</s>",
        "</s>",
        "<s>",
    ),
    "mistral-v3": Published(
        "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}{{ '[INST] ' + "
        "message['content'] + '[/INST]' }}{% elif message['role'] == 'assistant' %}{{ ' ' + message['content']|trim + eos_token}}"
        "{% endif %}{% endfor %}",
        ("<unk>", "<s>", "</s>", "[INST]", "[/INST]"),
        "</s>",
        "</s>",
        "<s>",
    ),
    "gemma": Published(
        "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
        "{% endif %}{% for message in messages %}{% if (message['role'] == 'assistant') %}{% set role = 'model' %}"
        "{% else %}{% set role = message['role'] %}{% endif %}{{ '<start_of_turn>' + role + '\n' + message['content'] "
        "| trim + '<end_of_turn>\n' }}{% endfor %}{% if add_generation_prompt %}{{'<start_of_turn>model\n'}}{% endif %}",
        ("<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"),
        "<eos>",
        "<end_of_turn>",
        "<bos>",
    ),
    "phi-3": Published(
        _LOOP + "{% if message['role'] == 'system' %}{{'<|system|>\n' + message['content'] + '<|end|>\n'}}"
        "{% elif message['role'] == 'user' %}{{'<|user|>\n' + message['content'] + '<|end|>\n'}}{% elif "
        "message['role'] == 'assistant' %}{{'<|assistant|>\n' + message['content'] + '<|end|>\n'}}{% endif %}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}",
        ("<unk>", "<s>", "<|endoftext|>", "<|assistant|>", "<|system|>", "<|user|>", "<|end|>"),
        "<|endoftext|>",
        "<|end|>",
        "<s>",
        ("<|assistant|>", "<|system|>", "<|user|>", "<|end|>"),
    ),
    "qwen2-vl": Published(
        "{% set image_count = namespace(value=0) %}{% for message in messages %}{% if loop.first and message['role'] != "
        "'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}<|im_start|>{{ message['role'] "
        "}}\n{% if message['content'] is string %}{{ message['content'] }}<|im_end|>\n{% else %}{% for content in "
        "message['content'] %}{% if content['type'] == 'image' or 'image' in content %}{% set image_count.value = "
        "image_count.value + 1 %}{% if add_vision_id %}Picture {{ image_count.value }}: {% endif %}<|vision_start|>"
        "<|image_pad|><|vision_end|>{% elif 'text' in content %}{{ content['text'] }}{% endif %}{% endfor %}<|im_end|>\n"
        "{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
        (
            "<|endoftext|>",
            "<|im_start|>",
            "<|im_end|>",
            "<|vision_start|>",
            "<|vision_end|>",
            "<|image_pad|>",
        ),
        "<|im_end|>",
        "<|im_end|>",
    ),
    "generation-marks": Published(
        _LOOP + "<|im_start|>{{ message.role }}\n{% if message.role == 'assistant' %}{% generation %}"
        "{{ message.content }}<|im_end|>{% endgeneration %}{% else %}{{ message.content }}<|im_end|>{% endif %}\n"
        "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
        ("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
        "<|im_end|>",
        "<|im_end|>",
    ),
}
TEXTS = [
    "user assistant system model colour red is it which a cat on the mat",
    "What is in the picture? A dog.",
] * 5


@lru_cache
def definition(control: tuple[str, ...], rstrip: tuple[str, ...] = ()) -> str:
    """A tokenizer.json: byte-level BPE on the words that Llama 3 and Qwen 2 divide text into."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(  # pyright: ignore[reportAttributeAccessIssue]
        [
            pre_tokenizers.Split(Regex(SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    tokens = [AddedToken(t, special=True, normalized=False, rstrip=t in rstrip) for t in control]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=340, initial_alphabet=alphabet, special_tokens=tokens, show_progress=False
    )
    backend.train_from_iterator(TEXTS, trainer)
    return backend.to_str()


@lru_cache
def sentencepiece(control: tuple[str, ...]) -> str:
    """A tokenizer.json as Llama 2 has it: a text begins with a space, and spaces begin words."""
    letters = sorted({c for text in (*TEXTS, "[INST] [/INST] USER: ASSISTANT: <||>\n") for c in text} - {" "})
    words = sorted(
        {f"▁{word[:n]}" for text in TEXTS for word in text.split() for n in range(1, len(word) + 1)}
    )
    vocab = {
        token: i
        for i, token in enumerate(
            dict.fromkeys((*control, *(f"<0x{i:02X}>" for i in range(256)), "▁", *letters, *words))
        )
    }
    backend = Tokenizer(
        models.BPE(
            vocab, [(w[:-1], w[-1]) for w in words if w[:-1] in vocab], byte_fallback=True, unk_token="<unk>"
        )
    )
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])  # pyright: ignore[reportAttributeAccessIssue]
    parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    backend.decoder = decoders.Sequence(parts)  # pyright: ignore[reportAttributeAccessIssue]
    backend.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in control])
    return backend.to_str()


def write_folder(
    name: str, folder: Path, source: str | None = None, *, jinja_file: bool = True, words: Words = definition
) -> Path:
    """A tokenizer's folder with the template `name`, or another `source` for its tokens."""
    published = PUBLISHED[name]
    folder.mkdir(parents=True, exist_ok=True)
    more = (published.rstrip,) if words is definition else ()
    (folder / "tokenizer.json").write_text(words(published.control, *more))
    source = published.source if source is None else source
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": published.eos,
        "bos_token": published.bos,
    }
    if jinja_file:
        (folder / "chat_template.jinja").write_text(source)
    else:
        config["chat_template"] = source
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


TALK = [
    ("user", "which colour is it"),
    ("assistant", "red"),
    ("user", "What is in the picture?"),
    ("assistant", "A dog."),
]


def messages(talk):
    return [Message(role, (text,)) for role, text in talk]


def library_ids(folder, talk, prompt):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    chat = [{"role": role, "content": text} for role, text in talk]
    return tokenizer.apply_chat_template(chat, add_generation_prompt=prompt, tokenize=True, return_dict=False)
