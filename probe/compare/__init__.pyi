from .corpus_shift import compare_corpus as compare_corpus
from .corpus_shift import read_texts as read_texts
from .corpus_shift import world_texts as world_texts
from .scalars import compare_scalars as compare_scalars
from .side_by_side import compare as compare
from .side_by_side import read_both as read_both
