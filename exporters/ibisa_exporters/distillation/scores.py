"""Raw scores as log-probabilities, in torch, for fitting and evaluating a student."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from ibisa_onnx.targets.class_scores import Activation, ClassScores

_FAINTEST = 1e-4  # smaller probabilities are not distinguished; an 8-bit output cannot anyway
_TINY = 1e-12


def log_probabilities(scores: Tensor, reading: ClassScores) -> Tensor:
    """Convert the output's values [N, width] to log-probabilities (nats) of classes, [N, K]."""
    if reading.one_score:
        logit = reading.activation is Activation.SIGMOID_LOGIT
        scores = torch.cat([-scores if logit else 1 - scores, scores], 1)
    if reading.activation is Activation.SOFTMAX:
        return functional.log_softmax(scores, 1)
    if reading.activation is Activation.LOG:
        return scores
    if reading.activation is Activation.SIGMOID_LOGIT:
        return functional.logsigmoid(scores)
    return scores.clamp(min=_TINY).log()


def floored(logs: Tensor, reading: ClassScores) -> Tensor:
    """Return log(p + e): log-probabilities that level off where p is negligible."""
    step = 0.0 if reading.quantisation is None else reading.quantisation.scale / 2
    probability = reading.activation in (Activation.PROBABILITY, Activation.SIGMOID)
    faintest = max(_FAINTEST, step) if probability else _FAINTEST
    return torch.logaddexp(logs, torch.full_like(logs[..., :1], math.log(faintest)))


def cross_entropy(student: Tensor, deployed: Tensor, reading: ClassScores) -> Tensor:
    """Return the mean cross-entropy (nats) of two sets of log-probabilities [N, K]."""
    wanted = deployed.exp()
    each = wanted * student
    if not reading.exclusive:
        each = each + (1 - wanted) * torch.log1p(-student.exp().clamp(max=1 - 1e-6))
    return -each.sum(1).mean()


def usual_logits(logs: Tensor, reading: ClassScores) -> Tensor:
    """Return logits [width] that represent the mean of log-probabilities [N, K]."""
    if reading.exclusive and not reading.one_score:
        return floored(logs, reading).mean(0)
    return torch.logit(logs.exp().mean(0), _FAINTEST)[-reading.width :]


def from_logits(logits: Tensor, activation: Activation) -> Tensor:
    """Convert logits to raw scores of an output of that kind."""
    if activation is Activation.LOG:
        return functional.log_softmax(logits, 1)
    if activation is Activation.PROBABILITY:
        return functional.softmax(logits, 1)
    return torch.sigmoid(logits) if activation is Activation.SIGMOID else logits
