"""Model-parameter randomisation: does an explanation depend on what the model has learned?

Adebayo et al. 2018 ("Sanity checks for saliency maps"): layers are given random weights from
the top (nearest to the output) down, and the maps are compared with those of the trained model.
A map that stays the same depends on the image alone, not on the model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from xai_align._tools.checks import check_choice, check_finite
from xai_align._tools.correlation import pearson, spearman
from xai_align._tools.drawn import permutation
from xai_align._tools.model_state import check_evaluation_mode
from xai_align._tools.random_state import fixed_random_state
from xai_align._tools.thread_state import restores_thread_state
from xai_align.features.resolve_layer import Layers, layer_names
from xai_align.features.unwrapping import network_of

#: "cascading": this layer and all above it are random; "independent": this layer alone is.
Order = Literal["cascading", "independent"]
#: Similarity of two tables of maps ``[N, P]``, ``[N]``.
Similarity = Callable[[Tensor, Tensor], Tensor]
#: Added to seeds: a network that was initialised with seed 0 must not get its initial weights again.
STREAM = 1_000_003


def _spearman_of_sizes(a: Tensor, b: Tensor) -> Tensor:
    return spearman(a.abs(), b.abs())


_SIMILARITIES: dict[str, Similarity] = {
    "spearman": spearman,
    "spearman_abs": _spearman_of_sizes,
    "pearson": pearson,
}


@dataclass(frozen=True, kw_only=True)
class Randomisation:
    """Similarity of the maps of randomised models to those of the trained model.

    Attributes:
        stages: the layer that is randomised at each stage, from the top down.
        similarity: ``[stages, N]``; NaN where a map is constant.
    """

    stages: tuple[str, ...]
    similarity: Tensor

    def mean(self) -> Tensor:
        """Return the mean over the stages with a defined similarity, ``[N]``; lower is better."""
        return self.similarity.nanmean(0)


@restores_thread_state
def parameter_randomisation(
    model: nn.Module,
    inputs: Tensor,
    attribute: Callable[[nn.Module, Tensor, Any], Tensor],
    *,
    target: Any = None,
    layers: Layers | None = None,
    order: Order = "cascading",
    seed: int = 0,
    similarity: str | Similarity = "spearman",
) -> Randomisation:
    """Compare maps of the model with those of copies whose layers are random.

    A module with ``reset_parameters`` (torch's own layers have it) is reinitialised by it; each parameter of any
    other module is permuted, which keeps its distribution. The model itself is never changed, run or explained:
    only copies are.

    Args:
        model: the trained model, in eval mode.
        inputs: ``[N, ...]``.
        attribute: ``attribute(model, inputs, target)`` explains a model, e.g.
            ``lambda model, x, y: Saliency(model).attribute(x, target=y)``. Images' channels are summed.
        target: passed on to ``attribute``.
        layers: dotted names, the top one first; a name covers all its submodules. None: every module that has
            parameters of its own and is changed by randomisation, in the reverse order of definition; give names
            if the layers run in another order.
        order: "cascading": a stage's layer and all above it are random; "independent": that layer alone.
        seed: seed of the random weights; stage number ``s`` draws with ``STREAM + seed + s``.
        similarity: "spearman", "spearman_abs" (of absolute attributions), "pearson", or a function of
            two tables ``[N, P]``.

    Raises:
        ValueError: a layer does not exist or has nothing to randomise, an option is not known, or the maps
            are not a tensor ``[N, ...]`` of finite values.

    Example::

        def gradient(model, inputs, target):
            inputs = inputs.requires_grad_()
            return torch.autograd.grad(model(inputs)[:, target].sum(), inputs)[0]

        result = parameter_randomisation(model, images, gradient, target=281, layers=["fc", "conv2", "conv1"])
        result.similarity  # [3, 2]: fc random; fc and conv2 random; all three random
    """
    check_choice("order", order, get_args(Order))
    check_evaluation_mode(model)
    measure = _similarity(similarity)
    original = _maps(attribute, deepcopy(model), inputs, target)
    stages, values = [], []
    for name, random_model in _random_models(model, layers, order, seed):
        stages.append(name)
        values.append(measure(original, _maps(attribute, random_model, inputs, target)))
    if not stages:
        raise ValueError(f"no layer of {type(model).__name__} is changed by new random weights; all are constants")
    return Randomisation(stages=tuple(stages), similarity=torch.stack(values))


def _random_models(model: nn.Module, layers: Layers | None, order: Order, seed: int) -> Iterator[tuple[str, nn.Module]]:
    """Yield the name of each layer from the top, and a copy of the model in which it is random.

    Each stage yields a separate copy, since an attribution method may modify the model.
    """
    network, _ = network_of(model)
    stages = _own_parameters(network) if layers is None else _named(network, layers)
    basis = deepcopy(model)
    for number, (stage, modules) in enumerate(stages.items()):
        if order == "independent":
            basis = deepcopy(model)
        inside, _ = network_of(basis)
        if _randomise([inside.get_submodule(name) for name in modules], STREAM + seed + number):
            yield stage, deepcopy(basis)
        elif layers is not None:
            raise ValueError(
                f"layer '{stage}' stays the same when randomised: its parameters are constants, or it has none"
            )


def _own_parameters(model: nn.Module) -> dict[str, list[str]]:
    """Return each module that directly holds parameters as a separate stage, the one defined last first."""
    names = [name for name, module in model.named_modules() if any(p is not None for p in module._parameters.values())]
    if not names:
        raise ValueError(f"{type(model).__name__} has no parameters, so nothing can be randomised")
    return {name or type(model).__name__: [name] for name in reversed(names)}


def _named(model: nn.Module, layers: Layers) -> dict[str, list[str]]:
    """Return the chosen layers, each with the names of all its submodules."""
    known = [name for name, _ in model.named_modules()]
    names = [] if isinstance(layers, str) else layer_names(model, layers) or []
    if not names or not set(names) <= set(known):
        shown = ", ".join(known[1:6])
        raise ValueError(f"layers {layers!r} are not all modules of this model; give a list of names such as {shown}")
    return {layer: [name for name in known if f"{name}.".startswith(f"{layer}.")] for layer in names}


def _randomise(modules: Sequence[nn.Module], seed: int) -> bool:
    """Randomise the parameters that the modules directly hold; return whether any value changed."""
    held = [
        value
        for module in modules
        for value in (*module._parameters.values(), *module._buffers.values())
        if value is not None
    ]
    before = [value.detach().clone() for value in held]
    with ExitStack() as stack:  # layers draw their weights from the global random state
        stack.enter_context(fixed_random_state(seed))
        stack.enter_context(torch.no_grad())
        for module in modules:
            reset = getattr(module, "reset_parameters", None)
            if callable(reset):
                reset()
            else:
                for parameter in module._parameters.values():
                    if parameter is not None:
                        _shuffle(parameter, seed)
    return any(not torch.equal(old, new) for old, new in zip(before, held, strict=True))


def _shuffle(parameter: nn.Parameter, seed: int) -> None:
    order = permutation(parameter.numel(), torch.Generator().manual_seed(seed))
    parameter.copy_(parameter.flatten()[order.to(parameter.device)].view_as(parameter))


def _similarity(similarity: str | Similarity) -> Similarity:
    return similarity if callable(similarity) else _SIMILARITIES[check_choice("similarity", similarity, _SIMILARITIES)]


def _maps(attribute: Callable[..., Tensor], model: nn.Module, inputs: Tensor, target: Any) -> Tensor:
    """Return the maps of a model as a table ``[N, P]``."""
    maps = attribute(model, inputs.detach().clone(), target)
    if not isinstance(maps, Tensor) or maps.dim() < 2 or len(maps) != len(inputs):
        found = list(maps.shape) if isinstance(maps, Tensor) else type(maps).__name__
        raise ValueError(f"attribute gave {found} for {len(inputs)} inputs; it must give a tensor [N, ...]")
    check_finite("the maps of attribute", maps)
    maps = maps.detach().double()
    return (maps.sum(1) if maps.dim() == 4 else maps).flatten(1)
