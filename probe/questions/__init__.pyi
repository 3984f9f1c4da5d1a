from .sets import SETS as SETS
from .sets import default_set as default_set
from .sets import locate as locate
from .sets import plain_texts as plain_texts
from .sets import right_answers as right_answers
