"""An experiment's jobs in the process of the tests, one after the other."""

from concurrent.futures import Future
from contextlib import nullcontext

from experiments import frame


class AtOnce:
    """A pool that has done a job when it has taken it."""

    def __init__(self):
        self.ran: list[tuple] = []

    def submit(self, function, *arguments):
        self.ran.append(arguments)
        future: Future = Future()
        try:
            future.set_result(function(*arguments))
        except Exception as error:
            future.set_exception(error)
        return future


def in_this_process(monkeypatch) -> list[tuple]:
    """The arguments of all jobs from now on, as they are taken."""
    pool = AtOnce()
    monkeypatch.setattr(frame, "ProcessPoolExecutor", lambda *_: nullcontext(pool))
    return pool.ran
