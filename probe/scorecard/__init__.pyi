from .card import Card as Card
from .card import read_card as read_card
from .catalogue_of_methods import families as families
from .catalogue_of_methods import find_methods as find_methods
from .catalogue_of_methods import methods as methods
from .family_record import Family as Family
from .method_record import method as method
from .method_scoring import score_methods as score_methods
