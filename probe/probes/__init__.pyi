from .decoded_use import use as use
from .decoding import decode as decode
from .erasure import erase as erase
from .text_labels import labelled_texts as labelled_texts
from .token_probe import token_truth as token_truth
