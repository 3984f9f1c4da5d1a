from .attempt import Store as Store
from .journal import Sweep as Sweep
from .journal import find_sweeps as find_sweeps
from .journal import read_sweep as read_sweep
from .schedule import run_sweep as run_sweep
from .spec import Spec as Spec
from .spec import Task as Task
from .spec import read_spec as read_spec
