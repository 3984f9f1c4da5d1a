from .callback import ProbeCallback as ProbeCallback
from .capture_plan import CaptureOptions as CaptureOptions
from .recorder import Recorder as Recorder
from .recorder import ReferenceKL as ReferenceKL
from .recorder import watch as watch
from .reward_shift import RewardShift as RewardShift
