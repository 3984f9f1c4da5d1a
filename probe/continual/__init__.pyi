from .experiment import run as run
from .measures import accuracy_matrix as accuracy_matrix
from .measures import average_accuracy as average_accuracy
from .measures import backward_transfer as backward_transfer
from .measures import forgetting as forgetting
from .measures import forward_transfer as forward_transfer
from .measures import savings as savings
