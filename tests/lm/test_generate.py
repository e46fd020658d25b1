"""Generation: the same seed gives the same text, a state kept gives what the whole text would."""

import codecs
from collections import Counter

import pytest
import torch

from lm.generate import Report, generate, printable, sample
from lm.model import DOCUMENT_MARK, Config, LanguageModel

SMALL = {"d_model": 16, "num_layers": 2, "head_width": 8, "state_width": 4, "num_slots": 4, "top_k": 2}
MIXERS = ["fm", "fm-sparse", "mamba2", "transformer"]


def model_for(mixer: str) -> LanguageModel:
    torch.manual_seed(0)
    return LanguageModel(Config.lenient(mixer, **SMALL))


@pytest.mark.parametrize("mixer", MIXERS)
@torch.no_grad()
def test_streaming_takes_the_token_that_the_whole_text_predicts(mixer):
    model, prompt = model_for(mixer), b"import "
    tokens = list(generate(model, prompt, 40, temperature=0))
    assert len(tokens) == 40
    logits, _ = model(torch.tensor([[DOCUMENT_MARK, *prompt, *tokens]]))
    best = logits[0, len(prompt) : -1]
    chosen = best.gather(-1, torch.tensor(tokens)[:, None])[:, 0]
    assert (best.max(-1).values - chosen).max() < 1e-4  # equal up to rounding


def test_the_seed_decides():
    model = model_for("fm-sparse")
    first, same, other = (list(generate(model, b"x", 30, temperature=1.0, seed=seed)) for seed in (5, 5, 6))
    assert first == same != other


@pytest.mark.parametrize("mixer", MIXERS)
def test_report_measures_the_state(mixer):
    model, report = model_for(mixer), Report()
    tokens = list(generate(model, b"abc", 20, temperature=0, report=report))
    assert (report.prompt_tokens, report.tokens, len(tokens)) == (4, 20, 20) and report.seconds > 0
    _, state = model(torch.tensor([[DOCUMENT_MARK, *b"abc", *tokens]]))
    if mixer == "transformer":
        assert report.state_bytes_after == sum(kept[:, :, :, :length].nbytes for kept, length in state)
        assert report.state_bytes_before * 6 == report.state_bytes_after
        assert "state grew from 1,024 to 6,144 bytes" in str(report)
    else:
        assert report.state_bytes_before == report.state_bytes_after == sum(v.nbytes for part in state for v in part)
        assert f"state {report.state_bytes_after:,} bytes throughout" in str(report)


def test_generation_ends_at_the_document_mark():
    class Ends(LanguageModel):
        def step_(self, tokens, state):
            logits, state = super().step_(tokens, state)
            logits[..., DOCUMENT_MARK] = 1e9
            return logits, state

    report = Report()
    assert len(list(generate(Ends(Config.lenient("fm", **SMALL)), b"a", 10, temperature=0, report=report))) == 1
    assert report.tokens == 2


@pytest.mark.parametrize("temperature", [5e-324, 1e-320, 1e-3])
def test_a_very_small_temperature_takes_the_best(temperature):
    logits, generator = torch.tensor([5.0, 9.0, -700.0]), torch.Generator().manual_seed(0)
    assert {sample(logits, temperature, 1.0, generator) for _ in range(20)} == {1}


def test_temperature_and_top_p_shape_the_draws():
    logits, generator = torch.tensor([0.0, 2.0, 1.0, -50.0]), torch.Generator().manual_seed(0)

    def shares(temperature, top_p):
        counts = Counter(sample(logits, temperature, top_p, generator) for _ in range(4000))
        return [counts[token] / 4000 for token in range(4)]

    assert shares(1.0, 1.0) == pytest.approx(logits.softmax(-1).tolist(), abs=0.03)
    assert shares(2.0, 1.0) == pytest.approx((logits / 2).softmax(-1).tolist(), abs=0.03)
    assert shares(1.0, 0.9) == pytest.approx([0, 0.731, 0.269, 0], abs=0.03)
    assert shares(1.0, 0.01) == shares(0, 1.0) == [0, 1, 0, 0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -1.0}, "temperature must not be negative, got -1.0"),
        ({"temperature": float("nan")}, "temperature must not be negative"),
        ({"top_p": 0.0}, r"top_p must lie in \(0, 1\], got 0.0"),
        ({"top_p": 1.5}, "top_p must lie in"),
        ({"seed": 2**63}, r"seed must lie in \[0, 2\*\*63\), got 9223372036854775808"),
        ({"seed": -1}, r"seed must lie in \[0, 2\*\*63\), got -1"),
    ],
)
def test_bad_options_are_named_at_once(options, message):
    with pytest.raises(ValueError, match=message):
        generate(model_for("fm"), **options)


def test_characters_come_as_soon_as_they_are_whole_and_cannot_harm_a_terminal():
    assert list(printable("é!".encode())) == ["", "é", "!", ""]
    assert list(printable(b"\xc3")) == ["", "�"]
    harmful = "".join(printable(bytes(range(256))))
    assert not [c for c in harmful if not c.isprintable() and c not in "\n\t"]
    assert codecs.encode(harmful, "utf-8")
