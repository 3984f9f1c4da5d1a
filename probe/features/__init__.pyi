from .feature_files import Features as Features
from .feature_files import read_features as read_features
from .feature_files import write_features as write_features
from .fitted_features import fit_features as fit_features
from .fitting import FitSettings as FitSettings
from .latent_scaling import scale_latents as scale_latents
from .measures import measure as measure
from .variables import match_variables as match_variables
