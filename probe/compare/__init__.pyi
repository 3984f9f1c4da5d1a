from .path import along as along
from .path import interpolate as interpolate
from .scalars import compare_scalars as compare_scalars
from .side_by_side import compare as compare
from .side_by_side import read_both as read_both
from .weights import weight_change as weight_change
