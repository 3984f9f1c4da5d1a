from .controls import intervene as intervene
from .patching import ablate as ablate
from .patching import attribute as attribute
from .patching import pair_of as pair_of
from .patching import patch as patch
from .sites import counterpart as counterpart
from .steering import contrast as contrast
from .steering import dose_response as dose_response
