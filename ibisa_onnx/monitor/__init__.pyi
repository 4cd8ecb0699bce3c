"""The public names of the package; `__init__.py` loads them on first use."""

from .drift import Comparison as Comparison, Statistics as Statistics
from .exporting import exposition as exposition, register as register
from .observation import MEASURES as MEASURES, Observation as Observation
from .summary import Summary as Summary
from .watching import Monitor as Monitor
