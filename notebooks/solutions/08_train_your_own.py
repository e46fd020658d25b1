"""Other answers to the exercises of notebook 8, for those who teach it and for the test of its checks.

`# %% exercise, verdict: what` begins an answer. The notebook's check must accept a right one and refuse a wrong one. An
answer sees what the notebook has imported and defined up to there.
"""
# ruff: noqa: F811, F821


# %% real-bits, right: a weight of 1 or 0 for each target
def real_bits(nats, real):
    weights = real.double()
    return (nats * weights).sum() / weights.sum() / math.log(2)


# %% real-bits, right: in bits first, row after row
def real_bits(nats, real):
    bits = [row[real_row] / math.log(2) for row, real_row in zip(nats, real, strict=True)]
    return torch.cat(bits).mean().item()


# %% real-bits, right: what is not real is no number
def real_bits(nats, real):
    return nats.where(real, torch.nan).nanmean() * math.log2(math.e)


# %% real-bits, wrong: what fills up is counted
def real_bits(nats, real):
    return nats.mean() / math.log(2)


# %% real-bits, wrong: the sum of the real ones over all targets
def real_bits(nats, real):
    return (nats * real).mean() / math.log(2)


# %% real-bits, wrong: every document counts alike, however short
def real_bits(nats, real):
    return ((nats * real).sum(1) / real.sum(1)).mean() / math.log(2)


# %% real-bits, wrong: in nats
def real_bits(nats, real):
    return nats[real].mean()


# %% real-bits, wrong: times ln 2 instead of over it
def real_bits(nats, real):
    return nats[real].mean() * math.log(2)


# %% equal-width, right: two models, and a line through them
def equal_width(mixer, d_model, num_layers, target):
    sizes = [
        LanguageModel(Config.of(mixer, d_model=d_model, num_layers=num_layers, mlp_width=w)).num_parameters()
        for w in (10, 11)
    ]
    return max(1, math.floor(10 + (target - sizes[0]) / (sizes[1] - sizes[0]) + 0.5))


# %% equal-width, right: by halves, without memory
def equal_width(mixer, d_model, num_layers, target):
    def more(width):
        with torch.device("meta"):
            config = Config.of(mixer, d_model=d_model, num_layers=num_layers, mlp_width=width)
            return LanguageModel(config).num_parameters() - target

    low, high = 1, 1000
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if more(middle) <= 0 else (low, middle)
    return min(low, high, key=lambda width: abs(more(width)))


# %% equal-width, right: the parts are counted one by one
def equal_width(mixer, d_model, num_layers, target):
    block = LanguageModel(Config.of(mixer, d_model=d_model, num_layers=1)).blocks[0]
    rest = 257 * d_model + d_model + num_layers * (size(block.mixer) + 2 * d_model)
    return max(1, round((target - rest) / num_layers / (3 * d_model)))


# %% equal-width, wrong: the width that the mixer's row proposes
def equal_width(mixer, d_model, num_layers, target):
    return MIXERS[mixer].mlp_width * d_model // 128


# %% equal-width, wrong: a SwiGLU of two matrices
def equal_width(mixer, d_model, num_layers, target):
    config = Config.of(mixer, d_model=d_model, num_layers=num_layers, mlp_width=1)
    least = LanguageModel(config).num_parameters()
    return max(1, 1 + round((target - least) / (2 * d_model * num_layers)))


# %% equal-width, wrong: as if there were one layer
def equal_width(mixer, d_model, num_layers, target):
    config = Config.of(mixer, d_model=d_model, num_layers=num_layers, mlp_width=1)
    least = LanguageModel(config).num_parameters()
    return max(1, 1 + round((target - least) / (3 * d_model)))


# %% equal-width, wrong: never more than the target
def equal_width(mixer, d_model, num_layers, target):
    config = Config.of(mixer, d_model=d_model, num_layers=num_layers, mlp_width=1)
    least = LanguageModel(config).num_parameters()
    return max(1, 1 + (target - least) // (3 * d_model * num_layers))


# %% equal-width, wrong: one too wide
def equal_width(mixer, d_model, num_layers, target):
    config = Config.of(mixer, d_model=d_model, num_layers=num_layers, mlp_width=1)
    least = LanguageModel(config).num_parameters()
    return max(1, 2 + round((target - least) / (3 * d_model * num_layers)))


# %% share-of-rate, right: the cosine as a square
def share_of_rate(step, steps, warmup, least):
    if step < warmup:
        return (1 + step) / warmup
    return least + (1 - least) * math.cos(math.pi / 2 * (step - warmup) / (steps - warmup)) ** 2


# %% share-of-rate, right: a list of all steps
def share_of_rate(step, steps, warmup, least):
    rising = [k / warmup for k in range(1, warmup + 1)]
    angles = torch.linspace(0, math.pi, steps - warmup + 1)[:-1]
    return (rising + (least + (1 - least) * (angles.cos() + 1) / 2).tolist())[step]


# %% share-of-rate, right: by Settings, stretched
def share_of_rate(step, steps, warmup, least):
    share = Settings(steps=steps, warmup=warmup).rate(step)
    return share if step < warmup else least + (share - 0.1) / 0.9 * (1 - least)


# %% share-of-rate, wrong: the first step has no rate
def share_of_rate(step, steps, warmup, least):
    if step < warmup:
        return step / warmup
    return least + (1 - least) * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup))) / 2


# %% share-of-rate, wrong: the cosine begins before the warm-up
def share_of_rate(step, steps, warmup, least):
    if step < warmup:
        return (step + 1) / warmup
    return least + (1 - least) * (1 + math.cos(math.pi * step / steps)) / 2


# %% share-of-rate, wrong: falls along a line
def share_of_rate(step, steps, warmup, least):
    if step < warmup:
        return (step + 1) / warmup
    return 1 - (1 - least) * (step - warmup) / (steps - warmup)


# %% share-of-rate, wrong: a cosine to 0 that stops at least
def share_of_rate(step, steps, warmup, least):
    if step < warmup:
        return (step + 1) / warmup
    return max(least, (1 + math.cos(math.pi * (step - warmup) / (steps - warmup))) / 2)


# %% share-of-rate, wrong: a tenth, whatever least is
def share_of_rate(step, steps, warmup, least):
    return Settings(steps=steps, warmup=warmup).rate(step)


# %% leaks, right: without the last byte, the rest must be the same
def leaks(model):
    tokens = torch.randint(256, (3, 20))
    with torch.no_grad():
        whole, shorter = model(tokens)[0], model(tokens[:, :-1])[0]
    return not torch.allclose(whole[:, :-1], shorter, atol=1e-4)


# %% leaks, right: at once and byte by byte must be the same
def leaks(model):
    tokens, state, logits = torch.randint(256, (2, 16)), None, []
    with torch.no_grad():
        for token in tokens.T:
            one, state = model(token[:, None], state)
            logits.append(one)
        return (model(tokens)[0] - torch.cat(logits, 1)).abs().max() > 1e-4


# %% leaks, right: every later byte is changed, one after the other
def leaks(model):
    tokens = torch.randint(200, (1, 12))
    with torch.no_grad():
        before = model(tokens)[0]
        for at in range(1, 12):
            changed = tokens.clone()
            changed[0, at] += 1
            if (model(changed)[0] - before)[0, :at].abs().max() > 1e-4:
                return True
    return False


# %% leaks, wrong: the last prediction may change
def leaks(model):
    tokens = torch.randint(200, (4, 24))
    changed = tokens.clone()
    changed[:, -1] += 1
    with torch.no_grad():
        return (model(tokens)[0] - model(changed)[0]).abs().max() > 1e-4


# %% leaks, wrong: the first byte is changed, and all later ones may know
def leaks(model):
    tokens = torch.randint(200, (4, 24))
    changed = tokens.clone()
    changed[:, 0] += 1
    with torch.no_grad():
        return (model(tokens)[0] - model(changed)[0])[:, :-1].abs().max() > 1e-4


# %% leaks, wrong: only the first prediction is looked at
def leaks(model):
    tokens = torch.randint(200, (4, 24))
    changed = tokens.clone()
    changed[:, -1] += 1
    with torch.no_grad():
        return (model(tokens)[0] - model(changed)[0])[:, 0].abs().max() > 1e-4


# %% leaks, wrong: only whether the likeliest byte is another one
def leaks(model):
    torch.manual_seed(0)
    tokens = torch.randint(200, (1, 12))
    changed = tokens.clone()
    changed[:, -1] += 1
    with torch.no_grad():
        return bool((model(tokens)[0].argmax(-1) != model(changed)[0].argmax(-1))[:, :-1].any())


# %% leaks, wrong: a low loss is taken for a leak
def leaks(model):
    tokens = torch.randint(256, (4, 24))
    with torch.no_grad():
        return bits_per_byte(model, tokens) < 2


# %% leaks, wrong: nothing that a model of the project does is doubted
def leaks(model):
    return type(model) is not LanguageModel


# %% verdict, right: by sets of bytes, and the share of the marks
def verdict(suspect):
    def read(starts):
        return {start + k for start in starts for k in range(suspect.window)}

    if leaks(suspect.model):
        return "future"
    if not (suspect.inputs != suspect.targets).any():
        return "unshifted"
    if (suspect.targets == 256).float().mean() > 0.5:
        return "padding"
    return "overlap" if read(suspect.train_starts) & read(suspect.held_out_starts) else "sound"


# %% verdict, right: by sorted starts, and by what the inputs say of the targets
def verdict(suspect):
    if not torch.equal(suspect.inputs[:, 1:], suspect.targets[:, :-1]):
        return "unshifted"
    if ((suspect.targets == 256) & (suspect.targets.roll(1, 1) == 256))[:, 1:].any():
        return "padding"
    marked = [(start, 0) for start in suspect.train_starts] + [(start, 1) for start in suspect.held_out_starts]
    marked.sort()
    near = {0: -math.inf, 1: -math.inf}
    for start, kind in marked:
        if start - near[1 - kind] < suspect.window:
            return "overlap"
        near[kind] = start
    return "future" if leaks(suspect.model) else "sound"


# %% verdict, right: all questions are asked, then one is named
def verdict(suspect):
    train, held_out = (torch.tensor(v) for v in (suspect.train_starts, suspect.held_out_starts))
    found = {
        "future": bool(leaks(suspect.model)),
        "unshifted": bool((suspect.inputs == suspect.targets).all()),
        "overlap": bool(((train[:, None] - held_out).abs() < suspect.window).any()),
        "padding": bool((suspect.targets == 256).all(0).any()),
    }
    return next((fault for fault, is_so in found.items() if is_so), "sound")


# %% verdict, wrong: a low loss is a leak, a high one is none
def verdict(suspect):
    if torch.equal(suspect.inputs, suspect.targets):
        return "unshifted"
    return "future" if suspect.train[-1] < 1 else "sound"


# %% verdict, wrong: only equal windows overlap
def verdict(suspect):
    if torch.equal(suspect.inputs, suspect.targets):
        return "unshifted"
    if ((suspect.inputs == 256) & (suspect.targets == 256)).any():
        return "padding"
    if set(suspect.train_starts) & set(suspect.held_out_starts):
        return "overlap"
    return "future" if leaks(suspect.model) else "sound"


# %% verdict, wrong: windows that touch are said to overlap
def verdict(suspect):
    if torch.equal(suspect.inputs, suspect.targets):
        return "unshifted"
    if ((suspect.inputs == 256) & (suspect.targets == 256)).any():
        return "padding"
    if any(abs(a - b) <= suspect.window for a in suspect.train_starts for b in suspect.held_out_starts):
        return "overlap"
    return "future" if leaks(suspect.model) else "sound"


# %% verdict, wrong: any mark is padding
def verdict(suspect):
    if torch.equal(suspect.inputs, suspect.targets):
        return "unshifted"
    if (suspect.targets == 256).any():
        return "padding"
    if any(abs(a - b) < suspect.window for a in suspect.train_starts for b in suspect.held_out_starts):
        return "overlap"
    return "future" if leaks(suspect.model) else "sound"


# %% verdict, wrong: one equal byte means unmoved targets
def verdict(suspect):
    if (suspect.inputs == suspect.targets).any():
        return "unshifted"
    if any(abs(a - b) < suspect.window for a in suspect.train_starts for b in suspect.held_out_starts):
        return "overlap"
    return "future" if leaks(suspect.model) else "sound"


# %% verdict, wrong: the model is not looked at
def verdict(suspect):
    if torch.equal(suspect.inputs, suspect.targets):
        return "unshifted"
    if ((suspect.inputs == 256) & (suspect.targets == 256)).any():
        return "padding"
    if any(abs(a - b) < suspect.window for a in suspect.train_starts for b in suspect.held_out_starts):
        return "overlap"
    return "sound"
