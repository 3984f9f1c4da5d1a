"""A synthetic world with known ground truth: corpus, questions, judge, annotators and Bayes-optimal predictors."""

from probe.world.annotators import AGREEABLE, HONEST, Annotator
from probe.world.config import KINDS, WorldConfig
from probe.world.corpus import Document
from probe.world.export import export
from probe.world.packing import pack
from probe.world.questions import Item
from probe.world.verifier import Verdict
from probe.world.world import World, of

__all__ = [
    "AGREEABLE",
    "HONEST",
    "KINDS",
    "Annotator",
    "Document",
    "Item",
    "Verdict",
    "World",
    "WorldConfig",
    "export",
    "of",
    "pack",
]
