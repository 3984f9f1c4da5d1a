from .control import move as move
from .control import remove as remove
from .control import resume as resume
from .control import start as start
from .control import stop as stop
from .job import Job as Job
from .trainings import list_jobs as list_jobs
