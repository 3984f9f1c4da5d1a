"""Logs of evaluation harnesses: two models compared item by item, and results of experiments for other harnesses.

- read a log of Inspect, samples of lm-evaluation-harness, or rows with a score: `read_log`; the log and an
  item of it: `Log`, `LogItem`
- compare the logs of two models on one task: `compare_logs`; the result: `LogComparison`
- write a result as a log of Inspect or as samples of lm-evaluation-harness: `write_inspect`, `write_harness`

The experiments as tasks of Inspect are in `probe.logs.inspect_tasks` (`inspect eval probe/sycophancy`).
"""

import lazy_loader

__getattr__, __dir__ = lazy_loader.attach_stub(__name__, __file__)[:2]
