from .sets import SETS as SETS
from .sets import default_set as default_set
from .sets import locate as locate
