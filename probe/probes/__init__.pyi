from .decoding import decode as decode
from .erasure import erase as erase
from .labelled_texts import labelled_texts as labelled_texts
from .use import use as use
