from .experiment import run as run
from .files import faithfulness as faithfulness
from .files import final_answer as final_answer
from .files import read_problems as read_problems
from .measures import pass_at_k as pass_at_k
from .world import bias_sums as bias_sums
from .world import edited_steps as edited_steps
from .world import sum_answers as sum_answers
