"""A sweep on two nodes of Ray on this machine, of which one is killed in the middle: `python -m tests.sweep.two_nodes`.

Ray and its switches last as long as a process, so the test runs this as one. Prints JSON: how the tasks ended, how many
steps were made when the node was killed, the addresses that Ray listened on, and how too large a task was refused.
"""

import json
import os
import secrets
import sys
from typing import Any

import psutil

from probe.errors import ConfigError
from probe.sweep import Sweep, run_sweep
from probe.sweep.ray_engine import LOCAL

STEPS = 20
"""Steps that both trainings have made when the node is killed."""


def listening() -> set[str]:
    """The addresses that this process and all below it listen on."""
    me = psutil.Process()
    found = set()
    for process in (me, *me.children(recursive=True)):
        try:
            found |= {each.laddr.ip for each in process.net_connections("inet") if each.status == psutil.CONN_LISTEN}
        except psutil.Error:  # it has just ended
            continue
    return found


def main(spec: dict[str, Any]) -> None:
    """Run the sweep, and kill the second node once both trainings are under way."""
    os.environ.update(LOCAL)
    os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)  # `ray.init` makes one where none is; `Cluster` does not
    from ray.cluster_utils import Cluster

    one = {"num_cpus": 1, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=one)
    second = cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    facts: dict[str, Any] = {}
    large = {"out": f"{spec['out']}-large", "train": [each | {"cpus": 9} for each in spec["train"]]}
    try:
        run_sweep(large, address=cluster.address)
    except ConfigError as error:
        refused = str(error)

    def tick(sweep: Sweep) -> None:
        made = {name: progress[0] for name in sweep.tasks if (progress := sweep.progress(name)) is not None}
        if not facts and len(made) == 2 and min(made.values()) >= STEPS:
            facts.update(made=made, listening=sorted(listening()))
            cluster.remove_node(second, allow_graceful=False)

    sweep = run_sweep(spec, address=cluster.address, tick=tick)
    facts["tasks"] = {each.name: [each.state, each.attempt, each.started, each.ended] for each in sweep.tasks.values()}
    facts["refused"] = refused
    cluster.shutdown()
    print(json.dumps(facts))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
