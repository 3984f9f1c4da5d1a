from .contrasts import Contrast as Contrast
from .contrasts import contrasts as contrasts
from .data_projection import project_data as project_data
from .direction import trait_direction as trait_direction
from .training_projection import project_training as project_training
