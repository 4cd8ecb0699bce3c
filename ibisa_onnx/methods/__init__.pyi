"""The public names, by the module that defines each; `__init__.py` loads them on first use."""

from .base import Method as Method
from .drise import DRise as DRise
from .grad_cam import GradCam as GradCam
from .iba import Iba as Iba
from .ibisa.method import Ibisa as Ibisa
from .ibisa.options import Options as Options
from .occlusion import Occlusion as Occlusion
from .random_map import RandomMap as RandomMap
from .registry import (
    METHODS as METHODS,
    MethodSettings as MethodSettings,
    method_named as method_named,
)
from .rise import (
    Rise as Rise,
    rise as rise,
)
