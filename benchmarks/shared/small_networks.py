"""Small networks for pictures of 32 x 32 pixels in plain PyTorch, and their training, which takes about a minute."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

#: Channels at strides 1, 2, 4 and 8.
CHANNELS = (16, 24, 32, 48)
WIDTH, HEADS, BLOCKS, PATCH, HIDDEN = 64, 4, 6, 4, 128


class ResidualBlock(nn.Module):
    """Residual block ``act(bn(conv(act(bn(conv(x))))) + shortcut(x))``."""

    def __init__(self, before: int, after: int, stride: int, activation: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.act1 = activation()
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.act2 = activation()
        same = before == after and stride == 1
        projection = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))
        self.shortcut: nn.Module = nn.Identity() if same else projection

    def forward(self, x: Tensor) -> Tensor:
        inner = self.bn2(self.conv2(self.act1(self.bn1(self.conv1(x)))))
        return self.act2(inner + self.shortcut(x))


def residual(classes: int, activation: Callable[[], nn.Module] = nn.ReLU) -> nn.Sequential:
    """Return a residual network of 11 convolutions in a row and a linear layer, 32 x 32 to 4 x 4, mean pooled."""
    one, two, four, eight = CHANNELS
    return nn.Sequential(
        nn.Conv2d(3, one, 3, 1, 1, bias=False),
        nn.BatchNorm2d(one),
        activation(),
        ResidualBlock(one, one, 1, activation),
        ResidualBlock(one, two, 2, activation),
        ResidualBlock(two, four, 2, activation),
        ResidualBlock(four, four, 1, activation),
        ResidualBlock(four, eight, 2, activation),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(eight, classes),
    )


def plain(classes: int) -> nn.Sequential:
    """Return a network like VGG: 8 convolutions with biases and no norm, max pooling, two linear layers."""
    layers: list[nn.Module] = []
    before = 3
    for number, after in enumerate(CHANNELS):
        layers += [nn.MaxPool2d(2)] if number else []
        for _ in range(2):
            layers += [nn.Conv2d(before, after, 3, 1, 1), nn.ReLU()]
            before = after
    layers += [nn.Flatten(), nn.Linear(before * 16, 64), nn.ReLU(), nn.Linear(64, classes)]
    for layer in layers:
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight)
    return nn.Sequential(*layers)


class Embedding(nn.Module):
    """Patches of 4 x 4 pixels as tokens, behind a class token if requested, with position embeddings."""

    def __init__(self, class_token: bool) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, WIDTH, PATCH, PATCH)
        self.token = nn.Parameter(torch.randn(1, 1, WIDTH) * 0.02) if class_token else None
        self.positions = nn.Parameter(torch.randn(1, (32 // PATCH) ** 2 + class_token, WIDTH) * 0.02)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        if self.token is not None:
            tokens = torch.cat([self.token.expand(len(x), -1, -1), tokens], 1)
        return tokens + self.positions


class Attention(nn.Module):
    """Self-attention, fused or written out."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.proj = nn.Linear(WIDTH, WIDTH)
        self.fused = True

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(2, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        if self.fused:
            mixed = functional.scaled_dot_product_attention(q, k, v)
        else:
            mixed = (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(-1) @ v
        return self.proj(mixed.transpose(1, 2).flatten(2))


class TokenBlock(nn.Module):
    """Attention and a two-layer perceptron, each behind a norm and around a shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(WIDTH), Attention()
        self.norm2 = nn.LayerNorm(WIDTH)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class VisionTransformer(nn.Module):
    """6 blocks of width 64 on 8 x 8 patches; the head reads the class token, or the mean of all tokens."""

    def __init__(self, classes: int, class_token: bool) -> None:
        super().__init__()
        self.class_token = class_token
        self.embedding = Embedding(class_token)
        self.blocks = nn.Sequential(*(TokenBlock() for _ in range(BLOCKS)))
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, classes)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.norm(self.blocks(self.embedding(x)))
        return self.head(tokens[:, 0] if self.class_token else tokens.mean(1))


def trained(
    build: Callable[[], nn.Module], batches: Iterator[tuple[Tensor, Tensor]], *, steps: int, rate: float, seed: int
) -> nn.Module:
    """Build a network and train it with AdamW on batches of pictures and labels; the rate rises, then falls."""
    torch.manual_seed(seed)
    model = build().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.2)
    for _ in range(steps):
        x, labels = next(batches)
        loss = functional.cross_entropy(model(x), labels)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return model.eval()
