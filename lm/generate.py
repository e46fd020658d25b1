"""Text from a model, a byte at a time, with a state that is kept and never rebuilt.

A recurrent mixer's state is as large after a million bytes as after one; a Transformer's is its cache of keys
and values, which grows with every byte.
"""

import codecs
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from lm.model import DOCUMENT_MARK, LanguageModel


def sample(logits: Tensor, temperature: float, top_p: float, generator: torch.Generator) -> int:
    """One token from logits [257], among the likeliest that reach top_p together; temperature 0: the best.

    >>> logits = torch.tensor([0.0, 3.0, 2.0])
    >>> sample(logits, 0.0, 1.0, torch.Generator()), sample(logits, 1.0, 0.5, torch.Generator())
    (1, 1)
    """
    logits = logits.double().cpu()
    if temperature == 0:
        return int(logits.argmax())
    below = logits - logits.max()  # the best stays at 0, however small the temperature
    shares, tokens = torch.softmax(below / temperature, -1).sort(descending=True, stable=True)
    kept = shares.where(shares.cumsum(-1) - shares < top_p, 0.0)  # the first is always kept
    race = kept / torch.empty_like(kept).exponential_(generator=generator)  # torch.multinomial, without its checks
    return int(tokens[race.argmax()])


@dataclass
class Report:
    """What a generation cost; filled in while it runs."""

    prompt_tokens: int = 0
    tokens: int = 0
    seconds: float = 0.0  # of the generated tokens, without the prompt
    state_bytes_before: int = 0  # after the prompt
    state_bytes_after: int = 0

    def __str__(self) -> str:
        rate = f"{self.tokens / self.seconds:,.0f}" if self.seconds else "-"
        if self.state_bytes_before == self.state_bytes_after:
            state = f"state {self.state_bytes_after:,} bytes throughout"
        else:
            state = f"state grew from {self.state_bytes_before:,} to {self.state_bytes_after:,} bytes"
        return f"{self.tokens:,} tokens after a prompt of {self.prompt_tokens:,}, {rate} tokens/s, {state}"


def generate(
    model: LanguageModel, prompt: bytes = b"", length: int = 500, *, temperature: float = 0.8,
    top_p: float = 0.95, seed: int = 0, report: Report | None = None,
) -> Iterator[int]:  # fmt: skip
    """Up to `length` tokens that follow a prompt at the start of a document; ends early at a document mark.

    ValueError if temperature is negative, top_p is not in (0, 1] or the seed not in [0, 2**63).
    """
    if not temperature >= 0:
        raise ValueError(f"temperature must not be negative, got {temperature}")
    if not 0 < top_p <= 1:
        raise ValueError(f"top_p must lie in (0, 1], got {top_p}")
    if not 0 <= seed < 2**63:
        raise ValueError(f"seed must lie in [0, 2**63), got {seed}")
    return _generate(model, prompt, length, temperature, top_p, seed, report or Report())


@torch.inference_mode()
def _generate(
    model: LanguageModel,
    prompt: bytes,
    length: int,
    temperature: float,
    top_p: float,
    seed: int,
    report: Report,
) -> Iterator[int]:
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(seed)
    logits, state = model(torch.tensor([[DOCUMENT_MARK, *prompt]], device=device))
    report.prompt_tokens = position = 1 + len(prompt)
    report.state_bytes_before = report.state_bytes_after = model.state_bytes(1, position)
    while report.tokens < length:
        began = time.perf_counter()
        token = sample(logits[0, -1], temperature, top_p, generator)
        logits, state = model.step_(torch.tensor([[token]], device=device), state)
        report.seconds += time.perf_counter() - began
        report.tokens += 1
        report.state_bytes_after = model.state_bytes(1, position + report.tokens)
        if token == DOCUMENT_MARK:
            return
        yield token


def printable(tokens: Iterator[int]) -> Iterator[str]:
    """Tokens as text for a terminal, as soon as a character is whole.

    Bytes that are not UTF-8 become �, and so do control characters: a model can spell an escape sequence.

    >>> "".join(printable(iter(b"na\\xc3\\xafve \\xff \\x1b[2J\\n")))
    'naïve � �[2J\\n'
    """
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    for token in tokens:
        yield _harmless(decoder.decode(bytes([token])))
    yield _harmless(decoder.decode(b"", final=True))


def _harmless(text: str) -> str:
    return "".join(c if c.isprintable() or c in "\n\t" else "�" for c in text)
