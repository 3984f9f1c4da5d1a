from .curves import Style as Style
from .curves import metric_curves as metric_curves
from .curves import styles as styles
from .export import render as render
from .export import save as save
from .intervals import headline_intervals as headline_intervals
from .runs import lineage as lineage
