"""Rewritings of a network that do not change its function.

Each returns a changed copy, or None where it does not apply.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.nn.utils import fuse_conv_bn_eval

from benchmarks.shared.small_networks import Attention, ResidualBlock

#: Function that changes a layer; it returns None if the layer is of another kind.
Replace = Callable[[nn.Module], nn.Module | None]


def everywhere(replace: Replace) -> Callable[[nn.Module], nn.Module | None]:
    """Return the rewriting that replaces every layer that ``replace`` changes."""

    def rewrite(model: nn.Module) -> nn.Module | None:
        copy = deepcopy(model)
        names = [(name, new) for name, layer in copy.named_modules() if name and (new := replace(layer)) is not None]
        for name, new in names:
            copy.set_submodule(name, new)
        return copy if names else None

    return rewrite


def split_linear(layer: nn.Module, orthogonal: bool) -> nn.Module | None:
    """Put a linear layer or 1 x 1 convolution behind a rotation ``q``, ``w q^T (q x)``, or behind an identity layer."""
    is_linear = isinstance(layer, nn.Linear)
    if not is_linear and not (isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1)):
        return None
    weight = layer.weight
    assert isinstance(weight, Tensor)
    size = weight.shape[1]
    random = torch.Generator().manual_seed(size)
    q = torch.linalg.qr(torch.randn(size, size, generator=random, dtype=weight.dtype))[0]
    q = q if orthogonal else torch.eye(size, dtype=weight.dtype)
    first = nn.Linear(size, size, False) if is_linear else nn.Conv2d(size, size, 1, bias=False)
    second = deepcopy(layer)
    first.weight = nn.Parameter(q.reshape(q.shape + weight.shape[2:]))
    second.weight = nn.Parameter((weight.flatten(1) @ q.T).reshape(weight.shape))
    return nn.Sequential(first, second).eval()


def after_identity(layer: nn.Module) -> nn.Module | None:
    """Return a k x k convolution behind a 1 x 1 convolution that is the identity."""
    if not isinstance(layer, nn.Conv2d) or layer.kernel_size == (1, 1):
        return None
    size = layer.in_channels
    first = nn.Conv2d(size, size, 1, bias=False)
    first.weight = nn.Parameter(torch.eye(size, dtype=layer.weight.dtype)[..., None, None])
    return nn.Sequential(first, layer).eval()


class BiasApart(nn.Module):
    """Layer whose bias is added by a separate operation."""

    def __init__(self, layer: nn.Linear | nn.Conv2d) -> None:
        super().__init__()
        self.layer = deepcopy(layer)
        self.layer.bias = None
        bias = layer.bias
        assert bias is not None
        self.bias = nn.Parameter(bias if isinstance(layer, nn.Linear) else bias[:, None, None])

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) + self.bias


def bias_apart(layer: nn.Module) -> nn.Module | None:
    """Return a linear layer or convolution whose bias is added separately."""
    if not isinstance(layer, nn.Linear | nn.Conv2d) or layer.bias is None:
        return None
    return BiasApart(layer)


class Written(nn.Module):
    """Activation written as an expression."""

    def __init__(self, expression: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.expression = expression

    def forward(self, x: Tensor) -> Tensor:
        return self.expression(x)


def written(kind: type[nn.Module], expression: Callable[[Tensor], Tensor]) -> Replace:
    """Return an activation of this kind as an expression."""
    return lambda layer: Written(expression) if isinstance(layer, kind) else None


def attention_written_out(model: nn.Module) -> nn.Module | None:
    """Write attention as products and a softmax in place of the fused function."""
    copy = deepcopy(model)
    found = [layer for layer in copy.modules() if isinstance(layer, Attention)]
    for layer in found:
        layer.fused = False
    return copy if found else None


def folded(model: nn.Module) -> nn.Module | None:
    """Fold every batch norm into the convolution before it."""
    copy = deepcopy(model)
    pairs = [pair for block in copy.modules() for pair in _norms(block)]
    for owner, *names in pairs:
        convolution, norm = map(owner.get_submodule, names)
        assert isinstance(convolution, nn.Conv2d)
        assert isinstance(norm, nn.BatchNorm2d)
        owner.set_submodule(names[0], fuse_conv_bn_eval(convolution, norm))
        owner.set_submodule(names[1], nn.Identity())
    return copy if pairs else None


def _norms(block: nn.Module) -> list[tuple[nn.Module, str, str]]:
    if isinstance(block, ResidualBlock):
        return [(block, "conv1", "bn1"), (block, "conv2", "bn2")]
    if not isinstance(block, nn.Sequential):
        return []
    return [(block, str(i - 1), str(i)) for i, layer in enumerate(block) if isinstance(layer, nn.BatchNorm2d)]


def contained(model: nn.Module) -> nn.Module:
    """Return the network behind an identity, in a container."""
    return nn.Sequential(nn.Identity(), deepcopy(model)).eval()


REWRITINGS: dict[str, Callable[[nn.Module], nn.Module | None]] = {
    "linear layers and 1 x 1 convolutions behind a rotation": everywhere(lambda layer: split_linear(layer, True)),
    "the same behind an identity layer": everywhere(lambda layer: split_linear(layer, False)),
    "k x k convolutions behind an identity 1 x 1": everywhere(after_identity),
    "ReLU6 as relu(x) - relu(x - 6)": everywhere(written(nn.ReLU6, lambda x: torch.relu(x) - torch.relu(x - 6))),
    "ReLU6 as a clamp": everywhere(written(nn.ReLU6, lambda x: x.clamp(0, 6))),
    "batch norm folded": folded,
    "SiLU as x * sigmoid(x)": everywhere(written(nn.SiLU, lambda x: x * torch.sigmoid(x))),
    "GELU by erf": everywhere(written(nn.GELU, lambda x: x * 0.5 * (1 + torch.erf(x / 2**0.5)))),
    "attention written out": attention_written_out,
    "in a container, behind an identity": contained,
    "biases added apart": everywhere(bias_apart),
}
