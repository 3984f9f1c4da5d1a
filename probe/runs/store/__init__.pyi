from .mirror import Mirror as Mirror
from .remote import download as download
from .remote import upload as upload
from .uploads import Uploads as Uploads
