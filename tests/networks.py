"""Tiny networks whose answers can be worked out by hand, and what is shared to watch a model."""

from __future__ import annotations

from contextlib import contextmanager

import torch
from torch import Tensor, nn

from xai_align.testing.networks import fixed_numbers


def two_layers() -> nn.Sequential:
    """``h = relu(W1 x + b1)``, ``logits = W2 h + b2`` with whole numbers."""
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2)).eval()
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, 2.0], [3.0, -1.0]]))
        model[0].bias.copy_(torch.tensor([1.0, -2.0]))
        model[2].weight.copy_(torch.tensor([[2.0, 1.0], [-1.0, 4.0]]))
        model[2].bias.copy_(torch.tensor([0.5, -0.5]))
    return model


class ConvNet(nn.Module):
    """Conv, batch norm, in-place ReLU used twice, max pooling, GAP, linear."""

    def __init__(self, classes: int = 5) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.act = nn.ReLU(inplace=True)
        self.pool = nn.MaxPool2d(2)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1)
        self.unused = nn.Linear(2, 2)
        self.fc = nn.Linear(8, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.act(self.norm(self.conv1(x))))
        return self.fc(self.act(self.conv2(x)).mean((2, 3)))


def conv_net(seed: int = 0, classes: int = 5) -> ConvNet:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = ConvNet(classes).eval()
        model.norm.running_mean.normal_()
        model.norm.running_var.uniform_(0.5, 2)
    return model


def filled(model: nn.Module) -> nn.Module:
    """Weights that are nowhere zero; eval mode."""
    with torch.no_grad():
        for seed, parameter in enumerate(model.parameters()):
            fan_in = parameter[0].numel() if parameter.dim() > 1 else 12
            fresh = fixed_numbers(*parameter.shape, seed=seed) * (6 / fan_in) ** 0.5
            parameter.copy_(fresh if parameter.dim() > 1 else parameter + fresh)
    return model.eval()


def images(count: int = 2, size: int = 8, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@contextmanager
def untouched(model: nn.Module):
    """Fail if parameters, buffers, gradients, modes, hooks or the random state differ after the block."""
    before = _state(model)
    try:
        yield
    finally:
        after = _state(model)
        for what in before:
            assert _equal(before[what], after[what]), f"{what} of the model changed"


def _state(model: nn.Module) -> dict[str, object]:
    return {
        "values": {name: value.clone() for name, value in model.state_dict().items()},
        "identities": [id(p) for p in model.parameters()],
        "requires_grad": [p.requires_grad for p in model.parameters()],
        "gradients": [None if p.grad is None else p.grad.clone() for p in model.parameters()],
        "modes": [module.training for module in model.modules()],
        "hooks": [
            (
                len(m._forward_hooks),
                len(m._forward_pre_hooks),
                len(m._backward_hooks),
                len(m._backward_pre_hooks),
            )
            for m in model.modules()
        ],
        "random state": torch.get_rng_state(),
    }


def _equal(a: object, b: object) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_equal(a[key], b[key]) for key in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(_equal(x, y) for x, y in zip(a, b, strict=True))
    return a == b


class CentresItsBatch(nn.Module):
    """The network of images less the mean image of the batch: its answers depend on the rest of the batch."""

    def __init__(self):
        super().__init__()
        self.inner = conv_net()

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x - x.mean(0, keepdim=True))


class AddsNoise(CentresItsBatch):
    """The network of images and noise, also in eval mode."""

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x + torch.randn_like(x))
