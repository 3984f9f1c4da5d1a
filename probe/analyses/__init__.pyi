from .analysis_record import Drawable as Drawable
from .analysis_record import Input as Input
from .analysis_record import Prompt as Prompt
from .catalogue import analyses as analyses
from .catalogue import analysis as analysis
from .catalogue import find_analysis as find_analysis
