"""A sample of the node tests inside onnx; `benchmarks/conformance.py` judges all of them."""

from __future__ import annotations

import node_cases
import pytest
from node_cases import FAILS, NO_DERIVATIVE, NO_KERNEL, PASSES, UNSUPPORTED, judge

from ibisa_onnx.autodiff.registry import Rule
from ibisa_onnx.autodiff.rules import RULES

_SAMPLE = (
    *("add_bcast", "attention_4d_causal", "clip_splitbounds", "hardswish"),
    *("einsum_batch_matmul", "gather_negative_indices", "gelu_tanh_1", "gemm_all_attributes"),
    *(
        "group_normalization_example",
        "layer_normalization_2d_axis1",
        "linear_attention_gated_delta",
    ),
    *("logsoftmax_axis_1", "lstm_with_peepholes", "gru_seq_length", "scan9_sum"),
    *("maxpool_2d_ceil", "mish", "pow_bcast_array", "reduce_l2_keep_dims_random"),
    *("rms_normalization_3d_axis1_epsilon", "rotary_embedding", "sce_mean_weight"),
    *("slice_negative_axes", "softmax_axis_0_expanded", "top_k", "where_example"),
)


@pytest.fixture(scope="module")
def cases():
    return {case.name.removeprefix("test_"): case for case in node_cases.load_cases()}


@pytest.mark.parametrize("name", _SAMPLE)
def test_gradient_agrees_with_central_differences(cases, name):
    verdict = judge(cases[name])
    assert verdict.kind == PASSES, verdict


@pytest.mark.parametrize(
    ("name", "kind", "reason"),
    [
        ("roialign_mode_max", UNSUPPORTED, "mode max"),
        ("floor", NO_DERIVATIVE, "piecewise constant"),
        ("argmax_default_axis_random", NO_DERIVATIVE, "output"),
        ("bitshift_left_uint8", NO_DERIVATIVE, "input"),
        ("swiglu", NO_KERNEL, "Swish"),
    ],
)
def test_every_case_has_a_reason(cases, name, kind, reason):
    verdict = judge(cases[name])
    assert verdict.kind == kind
    assert reason in verdict.reason


def test_a_wrong_gradient_is_found(cases, monkeypatch):
    wrong = Rule(lambda tape, node, dy: [tape.op("Mul", dy, node.outputs[0])])
    monkeypatch.setitem(RULES._table, ("", "Tanh"), wrong)
    assert judge(cases["tanh"]).kind == FAILS
