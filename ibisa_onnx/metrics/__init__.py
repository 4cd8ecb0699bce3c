"""How good a map is: by the model itself, by known objects, by other seeds, by another model."""

from __future__ import annotations

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
from ibisa_onnx.metrics.metric import Interval, Metric, Scores
from ibisa_onnx.metrics.sensitivity import Sensitivity, sensitivity_n
from ibisa_onnx.metrics.subject import Score, Subject

__all__ = [
    "AVERAGE_DROP",
    "AVERAGE_INCREASE",
    "DEGRADATION",
    "DELETION",
    "FAITHFULNESS",
    "INSERTION",
    "INSERTION_MINUS_DELETION",
    "RISE",
    "SENSITIVITY_N",
    "Curve",
    "Degradation",
    "FaithfulnessMetric",
    "Interval",
    "Metric",
    "Protocol",
    "Score",
    "Scores",
    "Sensitivity",
    "Subject",
    "blurred",
    "degradation",
    "degradation_metric",
    "deletion",
    "deletion_metric",
    "difference_metric",
    "faithfulness",
    "insertion",
    "insertion_metric",
    "metric_named",
    "sensitivity_metric",
    "sensitivity_n",
]
