from .scalars import compare_scalars as compare_scalars
from .side_by_side import compare as compare
from .side_by_side import read_both as read_both
