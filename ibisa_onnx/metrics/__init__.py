"""How good a map is: by the model itself, by known objects, by other seeds, by another model."""

from __future__ import annotations

from ibisa_onnx.metrics.agreement import (
    RANDOMISATION,
    SEED_STABILITY,
    AgreementMetric,
    randomisation,
    seed_stability,
    spearman,
)
from ibisa_onnx.metrics.degradation import Degradation, degradation
from ibisa_onnx.metrics.faithfulness import (
    AVERAGE_DROP,
    AVERAGE_INCREASE,
    DEGRADATION,
    DELETION,
    FAITHFULNESS,
    INSERTION,
    INSERTION_MINUS_DELETION,
    SENSITIVITY_N,
    FaithfulnessMetric,
    degradation_metric,
    deletion_metric,
    difference_metric,
    faithfulness,
    insertion_metric,
    metric_named,
    sensitivity_metric,
)
from ibisa_onnx.metrics.insertion_deletion import (
    RISE,
    Curve,
    Protocol,
    blurred,
    deletion,
    insertion,
)
from ibisa_onnx.metrics.localisation import (
    BOX_RATIO,
    EHR,
    ENERGY,
    LOCALISATION,
    POINTING_GAME,
    LocalisationMetric,
    effective_heat_ratio,
    pointing_game,
)
from ibisa_onnx.metrics.maps import box_region
from ibisa_onnx.metrics.metric import Interval, Metric, Scores, named
from ibisa_onnx.metrics.sensitivity import Sensitivity, sensitivity_n
from ibisa_onnx.metrics.shuffling import shuffled
from ibisa_onnx.metrics.subject import Score, Subject

__all__ = [
    "AVERAGE_DROP",
    "AVERAGE_INCREASE",
    "BOX_RATIO",
    "DEGRADATION",
    "DELETION",
    "EHR",
    "ENERGY",
    "FAITHFULNESS",
    "INSERTION",
    "INSERTION_MINUS_DELETION",
    "LOCALISATION",
    "POINTING_GAME",
    "RANDOMISATION",
    "RISE",
    "SEED_STABILITY",
    "SENSITIVITY_N",
    "AgreementMetric",
    "Curve",
    "Degradation",
    "FaithfulnessMetric",
    "Interval",
    "LocalisationMetric",
    "Metric",
    "Protocol",
    "Score",
    "Scores",
    "Sensitivity",
    "Subject",
    "blurred",
    "box_region",
    "degradation",
    "degradation_metric",
    "deletion",
    "deletion_metric",
    "difference_metric",
    "effective_heat_ratio",
    "faithfulness",
    "insertion",
    "insertion_metric",
    "metric_named",
    "named",
    "pointing_game",
    "randomisation",
    "seed_stability",
    "sensitivity_metric",
    "sensitivity_n",
    "shuffled",
    "spearman",
]
