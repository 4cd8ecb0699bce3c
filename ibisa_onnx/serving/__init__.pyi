"""The public names of the package; `__init__.py` loads them on first use."""

from .inference import Request as Request, ServedModel as ServedModel, Tensor as Tensor
from .scheduler import Scheduler as Scheduler
from .status import Status as Status, status_of as status_of
