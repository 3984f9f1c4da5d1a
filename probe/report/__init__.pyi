from .reproduce import experiment_command as experiment_command
from .reproduce import training_command as training_command
from .run_report import report as report
from .shown_analyses import look_inside as look_inside
