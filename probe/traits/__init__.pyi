from .contrast_pairs import Contrast as Contrast
from .contrast_pairs import contrasts as contrasts
from .data_projection import project_data as project_data
from .direction import trait_direction as trait_direction
from .training_projection import project_training as project_training
