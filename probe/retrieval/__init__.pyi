from .experiment import run as run
from .files import read_documents as read_documents
from .files import read_folder as read_folder
from .search import Retriever as Retriever
from .search import recall_curve as recall_curve
from .search import reciprocal_rank as reciprocal_rank
from .world import persuasion as persuasion
