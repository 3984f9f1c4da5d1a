from .log import Log as Log
from .log import LogItem as LogItem
from .log_formats import read_log as read_log
from .log_writers import write_harness as write_harness
from .log_writers import write_inspect as write_inspect
from .paired_logs import LogComparison as LogComparison
from .paired_logs import compare_logs as compare_logs
