"""What Torch-Pruning does with a PyTorch module: its analysis, and whether what it prunes is what masking computes."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import torch
import torch_pruning as tp
from torch import nn

ROOTS = (nn.modules.conv._ConvNd, nn.Linear, nn.LSTM)
# What its pruners and the pruned modules raise.
FAILURES = (RuntimeError, ValueError, AssertionError, IndexError, KeyError, AttributeError, TypeError)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """Relative difference of pruned and masked module, fraction of the entries that went, and what went wrong."""

    difference: float
    dropped: float
    problem: str = ""

    @property
    def exact(self) -> bool:
        """True if something went and nothing else changed."""
        return self.dropped > 0.1 and self.difference <= 1e-5


def count_groups(model: nn.Module, inputs: torch.Tensor) -> int:
    """The analysis: traces the module and builds all of its groups."""
    graph = tp.DependencyGraph().build_dependency(model.eval(), example_inputs=inputs, verbose=False)
    return len(list(graph.get_all_groups(root_module_types=list(ROOTS))))


def analysis_problem(model: nn.Module, inputs: torch.Tensor) -> str:
    """What stops the analysis, empty if nothing does."""
    try:
        count_groups(model, inputs)
    except FAILURES as error:
        return _first_line(error)
    return ""


def half_pruned(model: nn.Module, inputs: torch.Tensor) -> Outcome:
    """Prunes half of all groups but the head's, and compares with zeros at what went.

    Which entries went is read off a twin whose entries are their own positions, so this knows nothing of layers.
    """
    hints = [{}] if not hasattr(model, "num_heads") else [{}, model.num_heads()]
    outcomes = [_attempt(model, inputs, names) for names in hints]
    return next((outcome for outcome in outcomes if outcome.exact), outcomes[-1])


def _attempt(model: nn.Module, inputs: torch.Tensor, heads: dict[str, int]) -> Outcome:
    torch.manual_seed(0)
    model = copy.deepcopy(model).double().eval()
    _randomize(model)
    inputs = inputs.double() if inputs.is_floating_point() else inputs
    twin = copy.deepcopy(model)
    dense = _floats(model)
    for values in _floats(twin).values():
        values.copy_(torch.arange(values.numel(), dtype=values.dtype).view_as(values))
    try:
        modules = dict(twin.named_modules())
        tp.pruner.BasePruner(
            twin,
            inputs,
            importance=tp.importance.RandomImportance(),
            pruning_ratio=0.5,
            ignored_layers=[modules["head"]] if "head" in modules else [],
            num_heads={modules[name]: count for name, count in heads.items()},
            in_channel_groups={},
            out_channel_groups={},
            root_module_types=list(ROOTS),
        ).step()
        kept = {name: values.long() for name, values in _floats(twin).items()}
        for name, values in _floats(twin).items():
            values.copy_(dense[name].flatten()[kept[name]])
        for name, values in _floats(model).items():
            stays = torch.isin(torch.arange(values.numel()), kept[name].flatten()).view_as(values)
            values.mul_(stays)
        with torch.no_grad():
            pruned, masked = twin.eval()(inputs), model(inputs)
            difference = float((pruned - masked).abs().max() / masked.abs().max())
    except FAILURES as error:
        return Outcome(float("nan"), 0.0, _first_line(error))
    dropped = 1 - sum(k.numel() for k in kept.values()) / sum(v.numel() for v in dense.values())
    problem = "" if dropped else "no groups"
    return Outcome(difference, dropped, problem or ("" if difference <= 1e-5 else "pruned is not masked"))


def _floats(model: nn.Module) -> dict[str, torch.Tensor]:
    """Parameters and running statistics; the tensors themselves, to be changed in place."""
    return {name: value for name, value in model.state_dict().items() if value.is_floating_point()}


def _randomize(model: nn.Module) -> None:
    """Statistics, scales and biases away from 0 and 1, where errors would hide."""
    for name, value in _floats(model).items():
        if value.ndim == 1:
            noise = 0.2 * torch.rand(value.shape, dtype=value.dtype)
            value.copy_(noise + (1.0 if name.endswith(("running_var", "weight")) else 0.0))


def _first_line(error: BaseException) -> str:
    lines: list[Any] = str(error).splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"[:100]
