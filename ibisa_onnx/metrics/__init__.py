"""Metrics for attribution maps: faithfulness, localisation, stability and randomisation.

Faithfulness metrics (`insertion`, `deletion`, `degradation`, `sensitivity_n` and others) measure
how the model's score reacts when pixels ranked by the map are hidden. Localisation metrics compare
the map with a known object. Agreement and stability metrics compare maps with each other. `compare`
and `judge` combine several imputations into one verdict.
"""

from __future__ import annotations

from ibisa_onnx.metrics.agreement import (
    RANDOMISATION,
    SEED_STABILITY,
    AgreementMetric,
    randomisation,
    seed_stability,
    spearman,
)
from ibisa_onnx.metrics.boxes import BOX_METRICS, BoxMetric
from ibisa_onnx.metrics.degradation import Degradation, degradation
from ibisa_onnx.metrics.faithfulness import (
    AVERAGE_DROP,
    AVERAGE_INCREASE,
    DEGRADATION,
    DELETION,
    FAITHFULNESS,
    IMPUTED,
    INSERTION,
    INSERTION_MINUS_DELETION,
    LERF_MORF,
    SENSITIVITY_N,
    FaithfulnessMetric,
    degradation_metric,
    deletion_metric,
    difference_metric,
    faithfulness,
    insertion_metric,
    lerf_morf_metric,
    metric_named,
    sensitivity_metric,
)
from ibisa_onnx.metrics.imputation import (
    BLUR,
    BORDER,
    IMPUTATIONS,
    MEAN,
    NOISE,
    NOISY_LINEAR,
    ZEROS,
    Imputation,
    blurred,
    imputation_named,
)
from ibisa_onnx.metrics.insertion_deletion import (
    RISE,
    Curve,
    Protocol,
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
from ibisa_onnx.metrics.random_maps import smooth_random
from ibisa_onnx.metrics.regions import RegionTest, region_test
from ibisa_onnx.metrics.sensitivity import Sensitivity, sensitivity_n
from ibisa_onnx.metrics.shuffling import shuffled
from ibisa_onnx.metrics.stability import STABILITIES, STABILITY, StabilityMetric, stability
from ibisa_onnx.metrics.subject import Score, Subject
from ibisa_onnx.metrics.verdict import Comparison, Verdict, compare, judge

__all__ = [
    "AVERAGE_DROP",
    "AVERAGE_INCREASE",
    "BLUR",
    "BORDER",
    "BOX_METRICS",
    "BOX_RATIO",
    "DEGRADATION",
    "DELETION",
    "EHR",
    "ENERGY",
    "FAITHFULNESS",
    "IMPUTATIONS",
    "IMPUTED",
    "INSERTION",
    "INSERTION_MINUS_DELETION",
    "LERF_MORF",
    "LOCALISATION",
    "MEAN",
    "NOISE",
    "NOISY_LINEAR",
    "POINTING_GAME",
    "RANDOMISATION",
    "RISE",
    "SEED_STABILITY",
    "SENSITIVITY_N",
    "STABILITIES",
    "STABILITY",
    "ZEROS",
    "AgreementMetric",
    "BoxMetric",
    "Comparison",
    "Curve",
    "Degradation",
    "FaithfulnessMetric",
    "Imputation",
    "Interval",
    "LocalisationMetric",
    "Metric",
    "Protocol",
    "RegionTest",
    "Score",
    "Scores",
    "Sensitivity",
    "StabilityMetric",
    "Subject",
    "Verdict",
    "blurred",
    "box_region",
    "compare",
    "degradation",
    "degradation_metric",
    "deletion",
    "deletion_metric",
    "difference_metric",
    "effective_heat_ratio",
    "faithfulness",
    "imputation_named",
    "insertion",
    "insertion_metric",
    "judge",
    "lerf_morf_metric",
    "metric_named",
    "named",
    "pointing_game",
    "randomisation",
    "region_test",
    "seed_stability",
    "sensitivity_metric",
    "sensitivity_n",
    "shuffled",
    "smooth_random",
    "spearman",
    "stability",
]
