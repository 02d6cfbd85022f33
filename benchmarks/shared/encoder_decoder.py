"""Small encoder-decoder that reverses sequences, so that the source of every output token is known."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

#: "single": every position by itself. "convolution": two layers over three neighbours. "self-attention": two layers
#: over all positions.
Encoder = Literal["single", "convolution", "self-attention"]

SYMBOLS, LENGTH = 6, 12
WIDTH, HEADS, LAYERS = 32, 2, 2


class EncoderDecoder(nn.Module):
    """Encoder-decoder that gives the logits of all output tokens at once, each from the source alone.

    The symbols of a random sequence are independent, so the decoder does not get the previous tokens.
    """

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.embed = nn.Linear(SYMBOLS, WIDTH)
        self.places = nn.Parameter(torch.randn(LENGTH, WIDTH))
        self.encoder = _encoder(encoder)
        self.steps = nn.Parameter(torch.randn(LENGTH, WIDTH))
        self.decoder = nn.ModuleList(DecoderLayer() for _ in range(LAYERS))
        self.last = nn.Linear(WIDTH, SYMBOLS)

    def encode(self, source: Tensor) -> Tensor:
        """Return ``[N, T, WIDTH]`` of a source ``[N, T, SYMBOLS]``, one-hot."""
        return self.encoder(self.embed(source) + self.places)  # type: ignore[no-any-return]

    def decode(self, encoded: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits ``[N, I, SYMBOLS]`` and attention ``[N, layers, heads, I, T]``."""
        x, seen = self.steps.expand(len(encoded), -1, -1), []
        for layer in self.decoder:
            x, weights = layer(x, encoded)
            seen.append(weights)
        return self.last(x), torch.stack(seen, 1)

    def forward(self, source: Tensor) -> Tensor:
        """Return logits ``[N, I, SYMBOLS]``."""
        return self.decode(self.encode(source))[0]


class DecoderLayer(nn.Module):
    """Cross-attention and two linear layers, each added to their input."""

    def __init__(self) -> None:
        super().__init__()
        self.queries, self.keys, self.values, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.norm = nn.LayerNorm(WIDTH)
        self.mlp = nn.Sequential(
            nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 2 * WIDTH), nn.ReLU(), nn.Linear(2 * WIDTH, WIDTH)
        )

    def forward(self, x: Tensor, encoded: Tensor) -> tuple[Tensor, Tensor]:
        q = by_head(self.queries(self.norm(x)))
        k, v = by_head(self.keys(encoded)), by_head(self.values(encoded))
        weights = (q @ k.transpose(-2, -1) / k.shape[-1] ** 0.5).softmax(-1)
        x = x + self.out((weights @ v).transpose(1, 2).flatten(2))
        return x + self.mlp(x), weights


def by_head(x: Tensor) -> Tensor:
    """Reshape ``[N, positions, WIDTH]`` to ``[N, heads, positions, WIDTH / heads]``."""
    return x.unflatten(2, (HEADS, -1)).transpose(1, 2)


class Neighbours(nn.Module):
    """Convolution over three neighbouring positions, and ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Conv1d(WIDTH, WIDTH, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.mix(x.transpose(1, 2)).relu().transpose(1, 2)  # type: ignore[no-any-return]


def _encoder(name: Encoder) -> nn.Module:
    match name:
        case "single":
            return nn.Sequential(*(nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU()) for _ in range(2)))
        case "convolution":
            return nn.Sequential(Neighbours(), Neighbours())
        case "self-attention":
            layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 2 * WIDTH, dropout=0.0, batch_first=True, norm_first=True)
            return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        case _:
            raise ValueError(f"encoder={name!r}; it is one of {get_args(Encoder)}")


def sequences(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return one-hot sources ``[N, T, SYMBOLS]``, and the symbols of their reversals ``[N, I]``."""
    symbols = torch.randint(SYMBOLS, (count, LENGTH), generator=torch.Generator().manual_seed(seed))
    return F.one_hot(symbols, SYMBOLS).float(), symbols.flip(1)


def reversing(encoder: Encoder, *, seed: int, steps: int) -> EncoderDecoder:
    """Return a network trained on new sequences in every step."""
    torch.manual_seed(seed)
    model = EncoderDecoder(encoder)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for step in range(steps):
        source, reversed_symbols = sequences(64, seed=1_000_000 * (seed + 1) + step)
        loss = F.cross_entropy(model(source).flatten(0, 1), reversed_symbols.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval().requires_grad_(False)
