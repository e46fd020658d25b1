"""What is printed, shown in a notebook or stored: a line a case, then how many, then one guess."""

import html
import json
from dataclasses import dataclass, field

from verify.guess import Guess
from verify.judge import Result


@dataclass
class Report:
    """All results of one kernel. In Jupyter it shows as a table."""

    results: list[Result]
    notes: list[str] = field(default_factory=list)  # what was left out, and why
    guess: Guess | None = None
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        return not self.wrong

    @property
    def wrong(self) -> list[Result]:
        return [result for result in self.results if not result.ok]

    @property
    def right_everywhere(self) -> list[str]:
        """Results such as y or dphi that no fixed case has wrong."""
        judged = [result for result in self.results if result.got]
        names = {name: None for result in judged for name in result.got}  # in order
        return [name for name in names if not any(w.name == name for result in judged for w in result.wrong)]

    def raise_if_wrong(self) -> "Report":
        """Itself, or an AssertionError with the lines that are wrong."""
        if self.wrong:
            raise AssertionError("\n".join([*map(line, self.wrong), *self.tail()]))
        return self

    def tail(self) -> list[str]:
        """The lines after those of the cases."""
        count = f"{len(self.wrong)} of {len(self.results)} wrong" if self.wrong else f"all {len(self.results)} ok"
        lines = [f"left out: {note}" for note in self.notes]
        if self.wrong:
            lines.append("wrong: " + "; ".join(result.name for result in self.wrong))
            if self.right_everywhere:
                lines.append(f"right in every case: {', '.join(self.right_everywhere)}")
        lines.append(f"{count}, {self.seconds:.1f} s")
        if self.guess:
            lines.append(f"guess: {self.guess.text}")
        return lines

    def __str__(self) -> str:
        return "\n".join([*map(line, self.results), *self.tail()])

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td>{'ok' if result.ok else '<b>WRONG</b>'}</td>"
            f"<td style='text-align:left'>{html.escape(result.name)}</td>"
            f"<td style='text-align:left'>{html.escape(_what(result))}</td></tr>"
            for result in self.results
        )
        tail = "<br>".join(map(html.escape, self.tail()))
        return f"<table><tr><th></th><th>case</th><th>worst</th></tr>{rows}</table><p>{tail}</p>"

    def json(self) -> str:
        rows = [
            {
                "case": result.name, "ok": result.ok, "raised": result.raised, "worst_of_bound": result.worst[0],
                "wrong": [{"name": w.name, "text": w.text, "first_token": w.first_token} for w in result.wrong],
            }
            for result in self.results
        ]  # fmt: skip
        whole = {
            "ok": self.ok,
            "guess": self.guess and self.guess.text,
            "left_out": self.notes,
            "seconds": self.seconds,
            "cases": rows,
        }
        return json.dumps(whole, indent=1)


def line(result: Result) -> str:
    return f"{'ok   ' if result.ok else 'WRONG'}  {result.name:34}  {_what(result)}"


def _what(result: Result) -> str:
    """The worst number, then the other results that are wrong."""
    if result.raised:
        return f"raised {result.raised}"
    if not result.wrong:
        return f"worst error {result.worst[0]:.2f} of its bound ({result.worst[1]})" if result.worst[1] else ""
    first, *others = result.wrong
    more = [_short(w) for w in others]
    return first.text + (f"; also {', '.join(more)}" if more else "")


def _short(wrong) -> str:
    if wrong.mask is None:
        return wrong.text
    token = "" if wrong.first_token is None else f" from token {wrong.first_token}"
    return f"{wrong.name} ({wrong.mask.sum()} of {wrong.mask.numel()}{token})"
