"""The language model: sizes, prefill against steps and segments, state bytes, causality, slots, errors."""

import dataclasses
import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from layers import MIXERS, AttentionConfig, DenseConfig, SparseConfig, mixers_with
from layers.options import option_of
from lm.model import BLOCK_FIELDS, DOCUMENT_MARK, Config, LanguageModel

SMALL = {"d_model": 16, "num_layers": 2, "mlp_width": 12, "num_slots": 6, "top_k": 2, "head_width": 8, "state_width": 4}


def make(mixer, dtype=torch.float64):
    torch.manual_seed(0)
    return LanguageModel(Config.lenient(mixer, **SMALL)).to(dtype)


def some_tokens(batch=2, T=25):
    torch.manual_seed(1)
    return torch.randint(0, 257, (batch, T))


def tensors(state):
    return [v for a, b in state for v in (tuple(a[:, :, :, :b]) if isinstance(b, int) else (a, b))]


def error(got, want):
    return ((got - want).norm() / want.norm()).item()


def test_default_models_are_of_equal_size_and_fit_a_checkpoint():
    sizes = {mixer: LanguageModel(Config(mixer=mixer)).num_parameters() for mixer in MIXERS}
    assert max(sizes.values()) <= 1.03 * min(sizes.values()), sizes
    assert min(sizes.values()) > 600_000 and 2 * max(sizes.values()) < 2_000_000, sizes


def test_num_parameters_counts_the_tied_embedding_once():
    model = make("fm")
    assert model.num_parameters() == sum(v.numel() for v in model.state_dict().values())


@pytest.mark.parametrize("mixer", MIXERS)
@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_prefill_equals_steps(mixer, dtype, tolerance):
    model, tokens = make(mixer, dtype), some_tokens()
    want, _ = model(tokens)
    assert want.shape == (2, 25, 257)
    kept, spent, ys = None, model.initial_state(2), [[], []]
    for t in range(25):
        with torch.no_grad():
            y, kept = model(tokens[:, t : t + 1], kept)
        y_, spent = model.step_(tokens[:, t : t + 1], spent)
        ys[0].append(y)
        ys[1].append(y_)
    for y in ys:
        assert error(torch.cat(y, 1), want) < tolerance


@pytest.mark.parametrize("mixer", MIXERS)
def test_the_model_is_pre_norm_residual_blocks_between_tied_embeddings(mixer):
    def norm(x, module):
        return x / (x.square().mean(-1, keepdim=True) + model.config.eps).sqrt() * module.weight

    model, tokens = make(mixer), some_tokens()
    for p in model.parameters():
        p.data += 0.1 * torch.randn_like(p)
    x = model.embedding.weight[tokens]
    for block in model.blocks:
        x = x + block.mixer(norm(x, block.mixer_norm))[0]
        gate, value = (norm(x, block.mlp_norm) @ block.mlp.in_proj.weight.T).chunk(2, -1)
        x = x + (gate * gate.sigmoid() * value) @ block.mlp.out_proj.weight.T
    assert error(model(tokens)[0], norm(x, model.norm) @ model.embedding.weight.T) < 1e-12


@pytest.mark.parametrize("mixer", MIXERS)
@given(cut=st.integers(0, 25))
def test_segments_equal_whole(mixer, cut):
    model, tokens = make(mixer), some_tokens()
    left, state = model(tokens[:, :cut])
    before = [v.clone() for v in tensors(state)]
    right, _ = model(tokens[:, cut:], state)
    assert error(torch.cat([left, right], 1), model(tokens)[0]) < 1e-12
    assert all(torch.equal(a, b) for a, b in zip(tensors(state), before, strict=True))


@pytest.mark.parametrize("mixer", MIXERS)
@pytest.mark.parametrize("T", [1, 25])
def test_state_bytes_are_those_of_its_tensors(mixer, T):
    model = make(mixer, torch.float32)
    _, state = model(some_tokens(3, T))
    assert model.state_bytes(3, T) == sum(v.numel() * v.element_size() for v in tensors(state))
    assert model.state_bytes(3, 0) == sum(v.numel() * v.element_size() for v in tensors(model.initial_state(3)))


@pytest.mark.parametrize("mixer", MIXERS)
@pytest.mark.parametrize("at", [0, 16, 24])
def test_causality(mixer, at):
    model, tokens = make(mixer), some_tokens()
    changed = tokens.clone()
    changed[:, at:] = (tokens[:, at:] + 1) % 257
    before, after = model(tokens)[0], model(changed)[0]
    assert (before[:, :at] - after[:, :at]).abs().sum() <= 1e-12 * before.abs().sum()
    assert not torch.equal(before[:, at], after[:, at])


@pytest.mark.parametrize("mixer", MIXERS)
def test_every_parameter_learns(mixer):
    model, tokens = make(mixer), some_tokens()
    logits, _ = model(tokens)
    loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
    loss.backward()
    for name, p in model.named_parameters():
        assert p.grad is not None and p.grad.isfinite().all() and p.grad.abs().sum() > 0, name


@pytest.mark.parametrize("mixer", MIXERS)
def test_a_fresh_model_trains_at_the_full_rate_from_the_first_step(mixer):
    model = make(mixer, torch.float32)
    text = torch.tensor([list(b"the memory of a slot fades only where it is written; ")] * 2)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(40):
        logits, _ = model(text[:, :-1])
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), text[:, 1:].flatten())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert max(losses) < 1.02 * losses[0] and losses[-1] < losses[0] / 2, losses


def test_document_mark_is_a_token():
    logits, _ = make("fm-sparse")(torch.tensor([[DOCUMENT_MARK]]))
    assert logits.shape == (1, 1, 257)


def test_config_is_json_and_frozen():
    config = Config.of("fm", rates="slot", d_model=64)
    assert Config.of(**json.loads(json.dumps(config.as_dict()))) == config
    assert config == Config("fm", 64, options=DenseConfig(32, rates="slot", expansion=2, conv=4, gate=True))
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.d_model = 3


@pytest.mark.parametrize(
    "options, message",
    [
        ({"mixer": "lstm"}, f"mixer must be one of {', '.join(MIXERS)}, got 'lstm'"),
        ({"d_model": 0}, "d_model must be a positive integer, got 0"),
        ({"num_layers": -1}, "num_layers must be a positive integer, got -1"),
        ({"mlp_width": 0}, "mlp_width must be a positive integer, got 0"),
        ({"mixer": "fm-sparse", "top_k": 33}, r"top_k must .* \[1, num_slots = 32\], got 33"),
        ({"mixer": ["fm"]}, r"mixer must be one of .*, got \['fm'\]"),
        ({"d_model": "128"}, "d_model must be a positive integer, got '128'"),
        ({"mixer": "transformer", "eps": 0.0}, "eps must be positive and finite, got 0.0"),
        ({"mixer": "transformer", "head_width": 48}, "head_width must divide d_model = 128, got 48"),
        ({"mixer": "transformer", "head_width": 1}, "head_width must be even for a transformer, got 1"),
        ({"mixer": "mamba2", "head_width": 48}, "head_width must divide expansion . d_model = 256, got 48"),
        ({"mixer": "fm", "backend": "abacus"}, "backend must be .*got 'abacus'"),
    ],
)
def test_config_errors(options, message):
    with pytest.raises(ValueError, match=message):
        LanguageModel(Config.of(**options))(torch.zeros(1, 2, dtype=torch.int64))


@pytest.mark.parametrize("mixer", MIXERS)
def test_an_option_that_the_mixer_lacks_is_refused(mixer):
    """Even at the value that another mixer has by default. None stands for an option that was not given."""
    names = {field.name for mixer in MIXERS for field in fields_of(mixer)}
    lacking = {name: having for name in names if mixer not in (having := mixers_with(name))}
    assert lacking
    for name, mixers in lacking.items():
        value = getattr(Config(mixers[0]).options, name)
        value = 1 if value is None else value
        with pytest.raises(ValueError, match=f"^{name} is an option of {' or '.join(mixers)}, not of {mixer}, got"):
            Config.of(mixer, **{name: value})
        assert Config.of(mixer, **{name: None}) == Config.lenient(mixer, **{name: value}) == Config(mixer)


def test_options_of_another_mixer_and_unknown_names_are_refused():
    with pytest.raises(TypeError, match="options of fm must be of type DenseConfig, got AttentionConfig"):
        Config("fm", options=AttentionConfig())
    with pytest.raises(TypeError, match="options of fm must be of type DenseConfig, got SparseConfig"):
        Config("fm", options=SparseConfig())
    with pytest.raises(TypeError, match="gates is no field of Config and no option of a mixer, got 3"):
        Config.of("fm", gates=3)


def test_no_option_of_a_mixer_is_named_like_a_field_of_the_blocks():
    """They stand side by side in JSON and on the command line."""
    own = {field.name for mixer in MIXERS for field in fields_of(mixer)}
    assert not own & {"mixer", *BLOCK_FIELDS}


@pytest.mark.parametrize("mixer", MIXERS)
def test_every_option_of_a_mixer_reaches_its_layer(mixer):
    """An option that changes nothing of the layer would be one that is ignored."""

    def described(**options):
        layer = Config.of(mixer, **options).make_mixer()
        plain = {name: value for name, value in vars(layer).items() if not name.startswith("_")}
        return plain, [(name, p.shape) for name, p in layer.named_parameters()]

    given = {field.name: another(field, getattr(Config(mixer).options, field.name)) for field in fields_of(mixer)}
    given |= {"d_model": 64} | ({"eps": 0.5} if mixer != "transformer" else {})  # attention has no norm
    for name, value in given.items():
        if value is not None:
            assert described(**{name: value}) != described(), name


def fields_of(mixer):
    return dataclasses.fields(MIXERS[mixer].config)


def another(field, default):
    """A legal value that is not the default; None for what has no default of its own."""
    option = option_of(field)
    if option is not None and option.choices:
        return next(choice for choice in option.choices if choice != default)
    if default is None or isinstance(default, bool):
        return None if default is None else not default
    return default + 0.25 if isinstance(default, float) else 2 * default or 3


def test_a_sparse_model_keeps_a_quarter_of_its_slots_where_nothing_else_is_said():
    kept = {slots: Config.of(num_slots=slots).options.top_k for slots in (1, 3, 4, 32, 130)}
    assert kept == {1: 1, 3: 1, 4: 1, 32: 8, 130: 32} and Config.of(num_slots=4, top_k=4).options.top_k == 4


@pytest.mark.parametrize("mixer", MIXERS)
def test_a_state_survives_saving_and_the_model_is_exported(mixer, tmp_path):
    model, tokens = make(mixer), some_tokens()
    with torch.no_grad():
        want, _ = model(tokens)
        torch.save(model(tokens[:, :10])[1], tmp_path / "state.pt")
        assert error(model(tokens[:, 10:], torch.load(tmp_path / "state.pt"))[0], want[:, 10:]) < 1e-12
    program = torch.export.export(model, (some_tokens(3),), dynamic_shapes=({0: torch.export.Dim("batch")},))
    torch.export.save(program, tmp_path / "model.pt2")
    assert error(torch.export.load(tmp_path / "model.pt2").module()(tokens)[0], want) < 1e-12


@pytest.mark.parametrize("tokens", [torch.zeros(3, dtype=torch.int64), torch.zeros(1, 3), torch.zeros(1, 3, 2).long()])
def test_tokens_must_be_a_batch_of_integers(tokens):
    with pytest.raises(ValueError, match=r"tokens must be int64 \[B, T\], got "):
        make("fm")(tokens)


def test_a_state_of_another_depth_is_refused():
    with pytest.raises(ValueError, match="state needs one entry for each of 2 layers, got 1"):
        make("fm")(some_tokens(), make("fm").initial_state(2)[:1])
