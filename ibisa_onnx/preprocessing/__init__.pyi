"""The public names, by the module that defines each; `__init__.py` loads them on first use."""

from .annotate import annotate as annotate
from .geometry import Geometry as Geometry
from .resolve import Overrides as Overrides
from .spec import (
    PRESETS as PRESETS,
    Prepared as Prepared,
    Preprocessing as Preprocessing,
    mean_colour as mean_colour,
    prepare as prepare,
)
from .trial import (
    Trial as Trial,
    TrialRanking as TrialRanking,
    rank_preprocessing as rank_preprocessing,
)
