from .claim import Bench as Bench
from .claim import Claim as Claim
from .claim import Measurement as Measurement
from .claim import read_record as read_record
from .claims import finding as finding
from .claims import findings as findings
