"""The public names, by the module that defines each; `__init__.py` loads them on first use."""

from .errors import (
    AbsentTargetError as AbsentTargetError,
    DeadlineError as DeadlineError,
    ExportError as ExportError,
    GradientError as GradientError,
    IbisaError as IbisaError,
    ImageError as ImageError,
    MetricError as MetricError,
    MissingDependencyError as MissingDependencyError,
    ModelError as ModelError,
    NonFiniteGradientError as NonFiniteGradientError,
    OptionError as OptionError,
    OutputError as OutputError,
    OverloadError as OverloadError,
    PredictionMismatchError as PredictionMismatchError,
    PreprocessingError as PreprocessingError,
    ProviderError as ProviderError,
    RemoteError as RemoteError,
    ResultError as ResultError,
    TargetError as TargetError,
    UnsupportedOperatorError as UnsupportedOperatorError,
)
from .explainer import (
    Explainer as Explainer,
    Image as Image,
    Target as Target,
)
from .explanation import (
    Explanation as Explanation,
)
from .io.images import PreparedImage as PreparedImage
from .limits import Limits as Limits
from .methods.base import Method as Method
from .methods.ibisa.options import Options as Options
from .models.base import ImageModel as ImageModel
from .models.function import (
    FunctionModel as FunctionModel,
    InputSpec as InputSpec,
)
from .models.onnx_session import DeployedModel as DeployedModel
from .models.remote import RemoteModel as RemoteModel
from .models.running import time_limit as time_limit
from .preprocessing.resolve import Overrides as Overrides
from .preprocessing.spec import Preprocessing as Preprocessing
from .statements import (
    Certificate as Certificate,
    Completion as Completion,
    ExplainedTarget as ExplainedTarget,
    Passes as Passes,
    Prediction as Prediction,
    Provenance as Provenance,
    Sufficiency as Sufficiency,
)
from .targets.arguments import PointTarget as PointTarget
from .targets.base import (
    Answer as Answer,
    Context as Context,
    Kind as Kind,
    Objective as Objective,
    TargetSpec as TargetSpec,
)
from .targets.classification import ClassTarget as ClassTarget
from .targets.contrast import ContrastTarget as ContrastTarget
from .targets.detection import (
    BestAnchor as BestAnchor,
    BoxTarget as BoxTarget,
)
from .targets.embedding import SimilarityTarget as SimilarityTarget
from .targets.keypoints import KeypointTarget as KeypointTarget
from .targets.segmentation import RegionTarget as RegionTarget
from .targets.sequence import TextTarget as TextTarget
from .targets.value import ValueTarget as ValueTarget

__version__: str
