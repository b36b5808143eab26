"""The pocket tokenizer: one token per piece of the task's text, one token per byte otherwise.

Decoding returns any UTF-8 text exactly. Knows the pieces of the task, and nothing about models or
demonstrations.
"""

from __future__ import annotations

import re

from tokenizers import AddedToken, Regex, Tokenizer
from tokenizers.decoders import ByteFallback, Fuse, Sequence
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import Split
from transformers import PreTrainedTokenizerFast

from asymrl.pocket.modular_sums import END, PIECES

PAD, SYSTEM, USER, ASSISTANT = "<|pad|>", "<|system|>", "<|user|>", "<|assistant|>"
SPECIALS = (PAD, END, SYSTEM, USER, ASSISTANT)

CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}<|im_end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def build_tokenizer(max_length: int) -> PreTrainedTokenizerFast:
    """The tokenizer, built from scratch: 5 special tokens, 256 bytes, then the pieces.

    It is a BPE without merges. Text is split at the pieces, each of which is one token, and the
    text between them is split into bytes. " + 123" does not match the piece " + 12".
    """
    names = [*SPECIALS, *(f"<0x{byte:02X}>" for byte in range(256)), *PIECES]
    vocab = {name: i for i, name in enumerate(names)}
    longest_first = sorted(PIECES, key=len, reverse=True)
    pattern = (
        rf"(?:(?<![0-9])(?=[0-9])|(?![0-9]))(?:{'|'.join(map(re.escape, longest_first))})(?![0-9])"
    )
    core = Tokenizer(BPE(vocab=vocab, merges=[], byte_fallback=True, ignore_merges=True))
    core.pre_tokenizer = Split(Regex(pattern), behavior="isolated")
    core.decoder = Sequence([ByteFallback(), Fuse()])
    core.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in SPECIALS])
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token=END,
        pad_token=PAD,
        chat_template=CHAT_TEMPLATE,
        model_max_length=max_length,
        clean_up_tokenization_spaces=False,
    )
