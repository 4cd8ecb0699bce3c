"""The public names, by the module that defines each; `__init__.py` loads them on first use."""

from .maps import MapFolder as MapFolder
from .plot import draw as draw
from .runner import (
    Benchmark as Benchmark,
    Entry as Entry,
    Listener as Listener,
)
from .store import Store as Store
from .table import Table as Table
