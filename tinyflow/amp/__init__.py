"""Mixed precision: autocast regions, and gradient scaling for float16."""

from tinyflow.amp.custom import custom_bwd as custom_bwd
from tinyflow.amp.custom import custom_fwd as custom_fwd
from tinyflow.amp.grad_scaler import GradScaler as GradScaler
from tinyflow.autocast_mode import autocast as autocast
from tinyflow.autocast_mode import is_autocast_available as is_autocast_available
