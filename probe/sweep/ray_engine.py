"""The engine on Ray: it runs as many tasks at once as CPUs and GPUs allow, on this machine or on a cluster.

A Ray instance that is started here listens on this machine only and requires a token. The switch for that is the one
that Ray itself sets on macOS and Windows, where a node has the address 127.0.0.1. Each attempt is a remote task that
runs an `Attempt`. It reports its start and its progress to a board, an actor next to this process, and reads from the
board whether to stop.
"""

import importlib
import logging
import os
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from probe.errors import ConfigError, MissingToolError
from probe.sweep.attempt import STOP_S, Attempt, Ended, Order
from probe.sweep.journal import last_step
from probe.sweep.spec import Task

LOCAL = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # nodes are 127.0.0.1, and nothing listens elsewhere
    "RAY_AUTH_MODE": "token",
    "RAY_worker_niceness": "0",  # trainings run as if they had been started by hand
}
"""Environment variables of a Ray instance for this machine only; they must be set before Ray is imported."""
TELL_S = 1.0
"""Seconds between two reports of an attempt to the board."""


class Board:
    """Message board between attempts and the sweep; Ray makes an actor of it."""

    def __init__(self) -> None:
        self.stops = 0
        self.began: dict[str, str] = {}
        self.steps: dict[str, int] = {}
        self.known: set[tuple[str, int]] = set()

    def tell(self, task: str, attempt: int, node: str, step: int) -> int:
        """Record that an attempt is running; return how many times all attempts were asked to end."""
        if (task, attempt) not in self.known:
            self.known.add((task, attempt))
            self.began[task] = node
        self.steps[task] = step
        return self.stops

    def stop(self) -> None:
        """Ask all attempts to end."""
        self.stops += 1

    def look(self) -> tuple[dict[str, str], dict[str, int]]:
        """Return the attempts that have begun since the last call, and the steps of all attempts."""
        began, self.began = self.began, {}
        return began, self.steps


def make_attempt(order: Order, board: Any) -> Ended:
    """Run an attempt on a machine of the cluster, and return its outcome."""
    import ray

    get: Any = ray.get
    attempt, stops, told = Attempt(order), 0, float("-inf")
    beside = ThreadPoolExecutor(1)  # a main thread that waits for Ray yields its CPU to a further task
    try:
        while True:
            if time.monotonic() - told > TELL_S:
                told = time.monotonic()
                step = last_step(order.directory / order.task.run)
                word = board.tell.remote(order.task.name, order.attempt, attempt.node, step)
                asked = beside.submit(get, word).result()
                for _ in range(stops, asked):
                    attempt.stop()
                stops = asked
            ended = attempt.poll()
            if ended is not None:
                return ended
            time.sleep(TELL_S / 5)
    finally:
        attempt.kill()
        beside.shutdown(wait=False)


class OnRay:
    """Engine that runs attempts as tasks of Ray; see `probe.sweep.schedule.Engine`."""

    def __init__(self, address: str | None, cpus: int | None) -> None:
        """Join a cluster, or start Ray on this machine.

        Args:
            address: `auto` or HOST:PORT of a cluster; None starts a local Ray instance.
            cpus: CPUs of the local Ray instance; None for all.

        Raises:
            MissingToolError: Ray is not installed.
            ConfigError: there is no cluster at the address, or the local Ray instance would accept connections from
                other machines.
        """
        self._ray, self._started = _connect(address, cpus)
        ray = self._ray
        here = ray.get_runtime_context().get_node_id()
        beside = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(here, soft=False)
        self._board = ray.remote(Board).options(num_cpus=0, scheduling_strategy=beside).remote()
        self._make = ray.remote(make_attempt)
        self._refs: dict[Any, Order] = {}
        self._gpus = 1.0 if ray.cluster_resources().get("GPU", 0) >= 1 else 0.0
        self._steps: dict[str, int] = {}

    def has_room(self) -> bool:
        """Return True: Ray queues attempts."""
        return True

    def check(self, task: Task) -> None:
        """See `Engine`."""
        alive = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        for name, amount in self._needs(task).items():
            most = max((node.get(name, 0.0) for node in alive), default=0.0)
            if amount > most:
                raise ConfigError(
                    f"The task `{task.name}` takes up {amount:g} {name}s, and no machine has more than {most:g}: lower"
                    f" `{name.lower()}s` of the entry `{task.entry}`, or give Ray more."
                )

    def start(self, order: Order) -> None:
        """Hand an attempt to Ray."""
        needs = self._needs(order.task)
        options = {"num_cpus": needs["CPU"], "num_gpus": needs["GPU"], "max_retries": 0, "name": order.task.name}
        self._refs[self._make.options(**options).remote(order, self._board)] = order

    def _needs(self, task: Task) -> dict[str, float]:
        return {"CPU": float(task.cpus), "GPU": self._gpus if task.gpus is None else float(task.gpus)}

    def begun(self) -> dict[str, str]:
        """See `Engine`."""
        began, self._steps = self._ray.get(self._board.look.remote())
        return began

    def steps(self) -> dict[str, int]:
        """See `Engine`."""
        return self._steps

    def poll(self) -> list[Ended]:
        """See `Engine`."""
        if not self._refs:
            return []
        ready, _ = self._ray.wait(list(self._refs), num_returns=len(self._refs), timeout=0)
        return [self._outcome(ref, self._refs.pop(ref)) for ref in ready]

    def stop(self) -> None:
        """See `Engine`; queued attempts are withdrawn."""
        self._ray.get(self._board.stop.remote())

    def close(self) -> None:
        """End all attempts, and Ray if it was started here."""
        if self._refs:
            self.stop()
            self._ray.wait(list(self._refs), num_returns=len(self._refs), timeout=STOP_S)
        if self._started:
            self._ray.shutdown()

    def _outcome(self, ref: Any, order: Order) -> Ended:
        name = order.task.name
        try:
            ended: Ended = self._ray.get(ref)
            return ended
        except self._ray.exceptions.RayTaskError as error:  # an error of Probe's code on that machine
            return Ended(name, "failed", str(error.cause or error).strip().splitlines()[-1])
        except self._ray.exceptions.RayError as error:
            return Ended(name, "lost", str(error).strip().partition(". ")[0][:300])


def _connect(address: str | None, cpus: int | None) -> tuple[Any, bool]:
    """Import Ray and connect to it, or start it; return (the module `ray`, whether it was started here)."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if address is None:
        os.environ.update(LOCAL)
    try:
        ray = importlib.import_module("ray")
    except ImportError as error:
        raise MissingToolError(
            "Several tasks at once need Ray: `pip install 'probe-lm[sweep]'`, or leave --address and --cpus out."
        ) from error
    importlib.import_module("ray.util.scheduling_strategies")
    if ray.is_initialized():
        return ray, False
    common = {"log_to_driver": False, "logging_level": logging.ERROR, "include_dashboard": False}
    try:
        if address is None:
            ray.init(num_cpus=cpus, **common)
        else:
            common.pop("include_dashboard")
            ray.init(address=address, **common)
    except (ConnectionError, ValueError, RuntimeError) as error:
        where = "on this machine" if address is None else f"at `{address}`"
        reason = str(error).strip().partition(". ")[0]
        raise ConfigError(f"Ray cannot be used {where} ({reason}): `ray status` tells whether there is one.") from error
    if address is None and ray.util.get_node_ip_address() != "127.0.0.1":
        ray.shutdown()
        raise ConfigError(
            "Ray was imported before the sweep and would listen beyond this machine: start the sweep in a new process,"
            " or name a cluster by its address."
        )
    return ray, True
