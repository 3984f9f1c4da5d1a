from .circuits import composition as composition
from .circuits import spectra as spectra
from .long import attention_statistics as attention_statistics
from .patterns import attention as attention
from .patterns import rollout as rollout
from .patterns import stages as stages
from .scores import head_scores as head_scores
from .scores import repeat_scores as repeat_scores
