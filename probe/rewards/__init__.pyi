from .best_of_n import compare_best_of_n as compare_best_of_n
from .captured_pairs import follow_pairs as follow_pairs
from .captured_shift import follow_rewards as follow_rewards
from .causes import separate_causes as separate_causes
from .completions import compare_completions as compare_completions
from .evaluation import evaluate as evaluate
from .optimum import kl_to_optimal as kl_to_optimal
from .token_effects import contrast as contrast
