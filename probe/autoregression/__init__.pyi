from .jacobian import jacobian_norms as jacobian_norms
from .jacobian import jacobian_split as jacobian_split
from .jacobian import neutral_jacobian as neutral_jacobian
from .lags import effective_order as effective_order
from .lags import jacobian_profile as jacobian_profile
from .lags import lag_profile as lag_profile
from .linear import linear_autoregression as linear_autoregression
from .snowballs import snowball as snowball
