"""Rows of measurements that may be cut off: those wanted most come first, and each is written when it is done.

`work` measures rows one after the other and writes the record after each. A row that would not fit into the time that
is left is passed over. `supervise` runs `work` in a process of its own, and a new one if that dies: an illegal access
on a GPU spoils all later calls of its process. It also ends a row that takes too long. The record always says what was
not measured.
"""

import json
import signal
import subprocess
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from experiments import frame

BROKEN = 75  # how a process ends that can measure nothing more
GRACE = 20  # seconds beyond the end before a row is stopped
LIMIT = 60  # seconds of a row before it is stopped: others are worth more than its end


class Row(NamedTuple):
    """Something to measure. The times of rows of one kind follow from one another by their work."""

    part: str
    what: dict[str, str | int]  # tells it from others of its part
    measure: Callable[[], dict]
    kind: str = ""
    work: float = 1.0

    @property
    def key(self) -> str:
        return json.dumps({"part": self.part} | self.what)


def read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def write(path: Path, record: dict) -> None:
    """Whole or not at all."""
    frame.write(path, frame.text_of(record))


def begin(path: Path, about: dict, resume: bool) -> None:
    """A record without rows; with `resume` the rows stay that were measured, if all they depend on is as it was."""
    rows = []
    if resume:
        if not path.exists():
            raise ValueError(f"--resume needs a record to take up, there is none at {path}")
        before = read(path)
        changed = [f"{k} {before['about'].get(k)}, now {v}" for k, v in about.items() if before["about"].get(k) != v]
        if changed:
            raise ValueError(f"--resume cannot take up {path}, it was measured with " + "; ".join(changed))
        rows = [row for row in before["rows"] if "failed" not in row and "absent" not in row]
    write(path, {"about": about, "running": None, "not measured": [], "rows": rows})


def work(
    rows: list[Row],
    path: Path,
    until: float,
    *,
    say: Callable[[dict], None] = print,
    healthy: Callable[[], bool] = lambda: True,
    conclude: Callable[[list[dict]], dict] = lambda rows: {},
    clock: Callable[[], float] = time.time,
) -> int:
    """Measure the rows that the record lacks, in order, until the clock says `until`: 0, or BROKEN.

    say shows a row that is done; healthy tells, after a failure, whether more can be measured here; conclude makes of
    all rows what else the record holds.
    """
    record = read(path)
    by_key = {row.key: row for row in rows}
    done = {_key(row, by_key): row for row in record["rows"]}
    timed = [(by_key[key], row["seconds"]) for key, row in done.items() if key in by_key]
    missing = [row for row in rows if row.key not in done]
    passed_over: dict[str, str] = {}

    def save(running: Row | None) -> None:
        now = running and {"part": running.part} | running.what | {"since": clock()}
        still_open = [
            {"part": row.part} | row.what | {"why": passed_over.get(row.key, "the run ended before")}
            for row in missing
            if row.key not in done and row is not running
        ]
        record.update({"running": now, "not measured": still_open})
        write(path, record | conclude(record["rows"]))

    for row in missing:
        needs, left = expected(row, timed), until - clock()
        if timed and needs > left:  # nothing tells how long the first one takes
            passed_over[row.key] = f"would take about {needs:.0f} s, {max(left, 0):.0f} s were left"
            continue
        save(row)
        started, fine = clock(), True
        try:
            result = row.measure()
        except Exception as error:  # a kernel that fails is a result, too
            result, fine = {"failed": failure(error)}, healthy()
        seconds = clock() - started
        timed.append((row, seconds))
        done[row.key] = {"part": row.part} | row.what | result | {"seconds": round(seconds, 2)}
        record["rows"].append(done[row.key])
        save(None)
        say(done[row.key])
        if not fine:
            return BROKEN
    save(None)
    return 0


def _key(result: dict, by_key: dict[str, Row]) -> str:
    """The key of the row that has this result."""
    fits = (key for key, row in by_key.items() if ({"part": row.part} | row.what).items() <= result.items())
    return next(fits, json.dumps(result))


def expected(row: Row, timed: list[tuple[Row, float]]) -> float:
    """Seconds: what the last row of its kind took, by their work, else the longest of the last three."""
    alike = [(other, seconds) for other, seconds in timed if other.kind and other.kind == row.kind]
    if alike:
        other, seconds = alike[-1]
        return seconds * max(1.0, row.work / other.work)
    return max((seconds for _, seconds in timed[-3:]), default=0.0)


def failure(error: BaseException, lines: int = 12) -> dict:
    """What a record keeps of an exception: the end of its traceback leads to the line that failed."""
    tail = "".join(traceback.format_exception(error)).splitlines()[-lines:]
    return {"exception": f"{type(error).__name__}: {error}"[:500], "traceback": [line[:200] for line in tail]}


def supervise(command: list[str], path: Path, until: float, grace: float = GRACE, limit: float = LIMIT) -> int:
    """Run a command that does `work`, again where its process is BROKEN or dies within a row: 0, or how it failed."""
    while True:
        before = len(read(path)["rows"])
        process = subprocess.Popen(command)
        why = _too_long(process, path, until + grace, limit)
        code = process.wait()
        if why:
            _give_up(path, why)
        if code == 0 or time.time() > until + grace:
            return 0
        if code != BROKEN and not why:
            ended = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            _give_up(path, f"its process ended: {ended}")
        if len(read(path)["rows"]) == before:  # nothing is gained by another try
            return code if code > 0 else 1


def _too_long(process: subprocess.Popen, path: Path, end: float, limit: float) -> str | None:
    """Wait for a process. It is killed at the end of all, or when a row takes longer than its limit: why, then."""
    while process.poll() is None:
        running = read(path)["running"]
        if time.time() > end:
            why = "stopped: the time of the run was over"
        elif running and time.time() - running["since"] > limit:
            why = f"stopped: it took longer than {limit:.0f} s"
        else:
            time.sleep(0.2)
            continue
        process.kill()
        return why
    return None


def _give_up(path: Path, why: str) -> None:
    """The row that was running has failed."""
    record = read(path)
    if row := record["running"]:
        seconds = round(time.time() - row.pop("since"), 2)
        record["rows"].append(row | {"failed": {"exception": why, "traceback": []}, "seconds": seconds})
        write(path, record | {"running": None})
