"""Who looks for layers in a module that has none is warned, once; all else is quiet."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch

from ibisa_onnx.gradients.opaque_module import OpaqueModule

Ask = Callable[[OpaqueModule], Any]


class Doubling(OpaqueModule):
    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return 2 * values


def nothing(*_: Any) -> None:
    """A hook, or a function to apply."""


def replace_relus(module: torch.nn.Module) -> None:
    """As pytorch-grad-cam does it: without `children()`."""
    for name, child in module._modules.items():
        module._modules[name] = torch.nn.Identity()
        replace_relus(child)


LOOKS_INSIDE: dict[str, Ask] = {
    "apply": lambda m: m.apply(nothing),
    "apply of a parent": lambda m: torch.nn.Sequential(m).apply(nothing),
    "children": lambda m: list(m.children()),
    "named_children": lambda m: dict(m.named_children()),
    "_modules": replace_relus,
    "forward hook": lambda m: m.register_forward_hook(nothing),
    "forward pre-hook": lambda m: m.register_forward_pre_hook(nothing, with_kwargs=True),
    "backward hook": lambda m: m.register_full_backward_hook(nothing),
    "backward pre-hook": lambda m: m.register_full_backward_pre_hook(nothing),
    "old backward hook": lambda m: m.register_backward_hook(nothing),
}
HARMLESS: dict[str, Ask] = {
    "call": lambda m: m(torch.ones(1)),
    "eval": lambda m: m.eval(),
    "train": lambda m: m.train(),
    "to": lambda m: m.to("cpu", torch.float64),
    "half": lambda m: m.half(),
    "in a parent": lambda m: torch.nn.Sequential(m).eval().double().requires_grad_(False),
    "state": lambda m: m.load_state_dict(m.state_dict()),
    "modules": lambda m: [*m.modules(), *m.named_modules()],
    "zero_grad": lambda m: m.zero_grad(),
    "share_memory": lambda m: m.share_memory(),
    "text": repr,
    "copy": copy.deepcopy,
    "functional": lambda m: torch.func.functional_call(
        m, dict(m.named_parameters()), torch.ones(1)
    ),
}


@pytest.mark.parametrize("ask", LOOKS_INSIDE.values(), ids=LOOKS_INSIDE)
def test_looking_for_layers_is_warned_of_once(ask: Ask) -> None:
    module = Doubling()
    with pytest.warns(UserWarning, match=r"single layer to torch: .*GuidedBackprop.*LRP") as caught:
        ask(module)
    assert len(caught) == 1
    assert "\n" not in str(caught[0].message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ask(module)


@pytest.mark.parametrize("use", HARMLESS.values(), ids=HARMLESS)
def test_what_is_right_is_not_warned_of(use: Ask) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        use(Doubling())


@pytest.mark.parametrize(
    ("inside", "quiet"),
    [
        ("ends_inside", ("forward hook", "backward hook", "backward pre-hook")),
        ("begins_inside", ("forward pre-hook", "backward hook", "backward pre-hook")),
    ],
)
def test_a_tensor_inside_a_model_may_be_hooked(inside: str, quiet: tuple[str, ...]) -> None:
    for name, ask in LOOKS_INSIDE.items():
        if "hook" not in name or name == "old backward hook":
            continue
        module = Doubling()
        setattr(module, inside, True)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            ask(module)
        assert bool(caught) is (name not in quiet), name


def test_a_hook_sees_the_values() -> None:
    seen = []
    module = Doubling()
    with pytest.warns(UserWarning, match="forward hook"):
        module.register_forward_hook(lambda _, given, result: seen.append((given[0], result)))
    module(torch.tensor(3.0))
    assert seen == [(3, 6)]


def test_the_first_parameter_tells_device_and_dtype() -> None:
    module = Doubling(torch.float64)
    first = next(module.parameters())
    assert (first.device.type, first.dtype, first.numel()) == ("cpu", torch.float64, 0)
    assert not first.requires_grad
    assert next(module.half().parameters()).dtype == torch.float16
    assert next(module.to("meta").parameters()).device.type == "meta"
