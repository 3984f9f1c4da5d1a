"""An engine that runs the commands of a sweep in this process: no Ray, and torch is not imported again for each."""

import io
from contextlib import redirect_stdout

from probe.cli import main
from probe.sweep.attempt import Ended, Order
from probe.sweep.spec import Task


class Inside:
    """One command at a time; `monkeypatch.setattr(schedule, "make_engine", Inside)`."""

    def __init__(self, *given: object) -> None:
        self._ended: list[Ended] = []

    def has_room(self) -> bool:
        return not self._ended

    def check(self, task: Task) -> None:
        pass

    def start(self, order: Order) -> None:
        with redirect_stdout(io.StringIO()) as said:
            status = main(list(order.task.words))
        answer = said.getvalue() if order.task.kind == "experiment" else ""
        self._ended.append(Ended(order.task.name, "failed" if status else "finished", "", "here", answer))

    def begun(self) -> dict[str, str]:
        return {each.task: each.node for each in self._ended}

    def steps(self) -> dict[str, int]:
        return {}

    def poll(self) -> list[Ended]:
        ended, self._ended = self._ended, []
        return ended

    def stop(self) -> None:
        pass

    def close(self) -> None:
        pass
