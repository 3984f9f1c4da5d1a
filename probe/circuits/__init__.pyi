from .answer_circuit import circuit as circuit
from .answer_edges import edges as edges
from .subsets import Subsets as Subsets
from .subsets import check as check
from .subsets import exhaustive as exhaustive
from .subsets import greedy as greedy
