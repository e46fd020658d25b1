"""What the paper claims, beside what is stored of it here: a row a claim, made of the results of other experiments."""

from collections.abc import Callable, Iterable

from experiments import compute, length, mqar
from experiments.frame import Experiment, Run, stored
from experiments.recall import SHOWN
from experiments.short_runs import CHANGES

SOURCES = (
    "compute",
    "length",
    "mqar",
    "recall",
    "recall_in_text",
    "short_runs",
    "speed_dense",
    "speed_gpu",
    "speed_sparse",
)
STUDIES = ("recall", "length", "compute", "recall_in_text", "mqar", "short_runs")  # of `make studies`


def load() -> dict:
    return {name: stored(Experiment(name, measure)) for name in SOURCES}  # not their modules: some need Triton


def table(result: dict) -> str:
    lines = ["| the paper says | measured here | how sure | what it does not show |", "| --- " * 4 + "|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows(result))])


def hours(result: dict) -> str:
    """What the stored runs of each study took, those on a GPU apart."""
    head = ["study", "runs on a CPU", "core-hours", "runs on a GPU"]
    lines = [f"| {' | '.join(head)} |", "| --- " * len(head) + "|"]
    total = 0.0
    for name in STUDIES:
        here = [row for row in result[name]["rows"] if "made on" not in row]
        took = sum(row["seconds"] for row in here) / 3600
        total += took
        elsewhere = len(result[name]["rows"]) - len(here) + len(result[name].get("again", []))
        lines.append(f"| `{name}` | {len(here)} | {took:.1f} | {elsewhere or '–'} |")
    return "\n".join([*lines, f"| all | | {total:.1f} | |"])


def rows(result: dict) -> list[tuple[str, str, str, str]]:
    text, told = Text(result["length"]), Told(result["recall"], lambda row: row["recall"][str(SHOWN)])
    inside = Told(
        result["recall_in_text"], lambda row: {gap: found["share"] for gap, found in row["answers"].items()}
    )  # fmt: skip
    pairs = Told(
        result["mqar"],
        lambda row: {str(pairs): share for size, pairs, share in row["accuracy"] if size <= mqar.LONGEST},
    )
    decode = next(row for row in result["speed_dense"]["rows"] if row["what"].startswith("decode"))
    quarter = next(row for row in result["speed_sparse"]["grid"] if (row["M"], row["K"]) == (128, 32))
    few = next(row for row in result["speed_sparse"]["grid"] if (row["M"], row["K"]) == (128, 4))
    many = (
        "fm 128",
        "32 of 128",
        "8 of 128",
        "4 of 128",
        "fm 256",
        "4 of 256",
    )  # with as many seeds each, so that their means compare
    names = ("fm", "fm-sparse 8 of 32", "mamba2")
    attention = ("rotary", "none", "alibi", "none conv")
    mambas = ("mamba2", "mamba2 stretched", "mamba2 long dt", "mamba2 long dt stretched 0.003")
    large = ("fm large", "mamba2 large", "mamba2 large 0.001")
    card = Card(result["speed_gpu"]["rows"])
    eight = ("fm-sparse 8 of 32", "fm-sparse stretched", "fm-sparse 8 of 32 warm")
    few_slots = ("fm-sparse 4 of 16", "fm-sparse 4 of 16 warm", "fm 16")
    windowed = f"{text.at(16384, 'transformer')}, {text.windowed(16384)}"
    return [
        (
            "Level with a Transformer at short context",
            f"text, bits per byte at 129–256: {text.at(256, 'fm', 'fm-sparse', 'transformer')}. "
            f"At 1–256, by parameters: {_sizes(result['compute'], (112, 160), ('fm', 'transformer'))}",
            f"text: {text.seeds('fm', 'fm-sparse', 'transformer')}; "
            f"by parameters: {_sizes_seeds(result['compute'], (112, 160), ('fm', 'transformer'))}",
            "larger models, other text, learning rates by size",
        ),
        (
            "Better than a Transformer far beyond the training length",
            f"text, at 8,193–16,384: {text.at(16384, 'fm')}, {windowed}. "
            f"Recall after 4,096 fillers: {told.at(4096, 'fm', *attention)}",
            f"text: {text.seeds('fm', 'transformer')}; recall: {told.seeds('fm', *attention)}",
            "that attention is to blame: without positions, and with FM's convolution, it keeps 0.84 or more",
        ),
        (
            "Better than Mamba-2 far beyond the training length",
            f"text: {text.at(16384, 'fm', 'mamba2')}; gain over reset: {text.at(16384, 'fm', 'mamba2', part='gain')}. "
            f"Recall after 4,096 fillers: {told.at(4096, 'fm', *mambas)}; "
            f"with ten times the parameters {told.at(4096, *large)}. "
            f"Names inside text, after 256 bytes: {inside.at(256, *names)}; after 4,096: {inside.at(4096, *names)}",
            f"text: {text.seeds('fm', 'mamba2')}; recall: {told.seeds('fm', *mambas, *large)}; "
            f"names: {inside.seeds(*names)}",
            "a long memory on plain text: there no model keeps more than some hundred bytes",
        ),
        (
            "Sparse is as good as dense",
            f"text, at 129–256: {text.at(256, 'fm-sparse', 'fm')}. "
            f"Short runs on text: {_short(result['short_runs'], *many)}. "
            f"Recall after 64: {told.at(64, *eight, 'fm', *few_slots)}; "
            f"after 65,536: {told.at(65536, *eight, 'fm', *few_slots)}. "
            f"MQAR, 64 pairs: {pairs.at(64, 'fm-sparse 8 of 32', 'fm-sparse 8 of 32 warm', 'fm')}",
            f"text: {text.seeds('fm-sparse', 'fm')}; short runs: {_short_seeds(result['short_runs'], *many)}; "
            f"recall: {told.seeds(*eight, 'fm', *few_slots)}; "
            f"MQAR: {pairs.seeds('fm-sparse 8 of 32', 'fm-sparse 8 of 32 warm', 'fm')}",
            "M ≥ 128, of which the paper speaks, beyond 0.8 MB of text",
        ),
        (
            "Sparse touches less",
            "the memory forward and backward on two cores, M = 128: "
            f"{_over_dense(quarter):.2f}× as fast as dense at K = 32, {_over_dense(few):.2f}× at K = 4; "
            f"on an H100, with Triton, {card.of_sparse()} at K = 4",
            "one machine each, medians",
            "a whole model's training on a GPU",
        ),
        (
            "Decodes 35 to 40 % faster than Mamba-2 on an H100",
            f"the step of the memory alone on an H100, Mamba-2's time over ours: dense {card.of_step('dense')}, "
            f"sparse with K = 4 {card.of_step('sparse')}",
            "one run, three sizes, medians",
            "a whole model's decoding; what K = 4 costs at that size",
        ),
        (
            "Constant time per token at inference",
            f"time of a token after 100,000 over one after 100: {decode['measured']:.2f} ({decode['detail']})",
            "one machine",
            "–",
        ),
    ]


class Card:
    """Ratios of times on a GPU, lowest to highest over the sizes that were measured."""

    def __init__(self, rows: list[dict]):
        self.rows = rows

    def of_step(self, form: str) -> str:
        """Mamba-2's decode step over ours."""
        return self._ratios("decode", "ms", "Mamba-2 step", form, "BMD")

    def of_sparse(self) -> str:
        """Forward and backward of the dense kernels over those of the sparse ones."""
        return self._ratios("sparse", "both ms", "dense over zeros", "sparse", "BTMKD")

    def _ratios(self, part: str, time: str, over: str, under: str, sizes: str) -> str:
        times = {
            (row["form"], *(row[name] for name in sizes)): row[time]
            for row in self.rows if row["part"] == part and time in row
        }  # fmt: skip
        found = [ms / times[under, *at] for (form, *at), ms in times.items() if form == over and (under, *at) in times]
        return f"{min(found):.2f}× to {max(found):.2f}×" if found else "not measured"


def _over_dense(row: dict) -> float:
    return row["chunked both"] / row["walk both"]


def _sizes(result: dict, widths: tuple[int, ...], mixers: tuple[str, ...]) -> str:
    """Bits per byte of models of so many parameters: the mean over seeds, with their range."""
    parts = []
    for width in widths:
        rows = {mixer: _of_size(result, width, mixer) for mixer in mixers}
        size = next(row["parameters"] for of_it in rows.values() for row in of_it)
        spreads = (f"{TITLES[name]} {length.spread(compute.bits(of_it))}" for name, of_it in rows.items())
        parts.append(f"{size / 1e6:.2f}M {', '.join(spreads)}")
    return "; ".join(parts)


def _sizes_seeds(result: dict, widths: tuple[int, ...], mixers: tuple[str, ...]) -> str:
    return _seeds(len(_of_size(result, width, mixer)) for width in widths for mixer in mixers)


def _of_size(result: dict, width: int, mixer: str) -> list[dict]:
    return [row for row in result["rows"] if (row["width"], row["mixer"]) == (width, mixer)]


def _short(result: dict, *names: str) -> str:
    """Bits per byte at 129–256 after a short run, by change: the mean over seeds, with their range."""
    found = {name: [row["129-256"][0] for row in result["rows"] if row["change"] == name] for name in names}
    return ", ".join(f"{CHANGES[name].title} {length.spread(values, 3)}" for name, values in found.items())


def _short_seeds(result: dict, *names: str) -> str:
    return _seeds([row["change"] for row in result["rows"]].count(name) for name in names)


class Text:
    """Bits per byte by mixer: the mean over seeds, with their range."""

    def __init__(self, result: dict):
        self.runs: dict[str, list[dict]] = {}  # read as they were trained
        self.with_window: list[dict] = []  # the Transformer, read with a sliding window
        for row in result["rows"]:
            (self.with_window if row["window"] else self.runs.setdefault(row["model"], [])).append(row)

    def at(self, last: int, *names: str, part: str = "stateful") -> str:
        digits = 3 if part == "gain" else 2
        found = {name: length.at(self.runs.get(name, []), part, last) for name in names}
        return ", ".join(f"{TITLES[name]} {length.spread(values, digits)}" for name, values in found.items())

    def windowed(self, last: int) -> str:
        spread = length.spread(length.at(self.with_window, "stateful", last))
        return "".join(f"read with a sliding window of {row['window']} {spread}" for row in self.with_window[:1])

    def seeds(self, *names: str) -> str:
        return _seeds(len(self.runs.get(name, [])) for name in names)


class Told:
    """Shares of right values, by rival; those without a run are said to have none.

    shares(row) -> the shares of a run, by what was asked.
    """

    def __init__(self, result: dict, shares: Callable[[dict], dict[str, float]]):
        self.runs: dict[str, list[dict]] = {}
        for row in result["rows"]:
            self.runs.setdefault(row["rival"], []).append(shares(row))

    def at(self, asked: int, *names: str) -> str:
        return ", ".join(f"{TITLES[name]} {self._share(name, str(asked))}" for name in names)

    def _share(self, name: str, asked: str) -> str:
        shares = [run[asked] for run in self.runs.get(name, []) if asked in run]
        if not shares:
            return "not measured"
        return length.spread(shares)

    def seeds(self, *names: str) -> str:
        return _seeds(len(self.runs.get(name, [])) for name in names)


def _seeds(counts: Iterable[int]) -> str:
    fewest = min(counts)
    return f"at least {fewest} seed{'s' * (fewest != 1)} each"


TITLES = {
    "fm": "FM", "fm-sparse": "sparse FM", "mamba2": "Mamba-2", "transformer": "Transformer", "rotary": "rotary",
    "none": "no positions", "alibi": "ALiBi", "none conv": "no positions with a convolution",
    "mamba2 stretched": "Mamba-2 trained on longer gaps", "fm-sparse 8 of 32": "8 of 32 slots",
    "fm-sparse 8 of 32 warm": "8 of 32 after a dense beginning", "mamba2 long dt": "Mamba-2 with dt from 0.00001",
    "mamba2 long dt stretched 0.003": "with both",
    "fm-sparse 4 of 16": "4 of 16", "fm-sparse 4 of 16 warm": "4 of 16 after a dense beginning",
    "fm large": "FM", "mamba2 large": "Mamba-2", "mamba2 large 0.001": "Mamba-2 at a lower rate",
    "fm-sparse stretched": "8 of 32 trained on longer gaps", "fm 16": "all 16",
}  # fmt: skip


def measure(run: Run) -> dict:
    return load()


EXPERIMENT = Experiment("claims", measure, {"": table, "hours": hours}, load=load)
