"""Compare cross-attention with saliency for the source and for the encoder's output, by the encoder's mixing.

    OMP_NUM_THREADS=1 python -m benchmarks.judging.context_mixing

Takes two minutes on one core. Small encoder-decoders reverse sequences of 12 symbols. Saliency as in Papi et al. 2025
(arXiv 2509.18010): positions are set to zero at random, in the source or in the encoder's output, and weighted by the
divergence from the answer without masks. Attention is averaged over layers and heads; its correlations with the two
saliencies, and their difference (context mixing), are those of `attention_agreement` and `context_mixing_gap`. Also
measured: the same with positions of the encoder's output set to its value for an empty source instead of zero; the
readout at the encoder's output (exact, with attention held); and how often each map is largest at the token's source.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import get_args

import torch
from torch import Tensor, nn

from benchmarks.shared.encoder_decoder import LENGTH, Encoder, EncoderDecoder, reversing, sequences
from benchmarks.shared.intervals import plus_minus
from benchmarks.shared.markdown import heading, row
from benchmarks.shared.positive_integer import positive_integer
from xai_align.evaluation import attention_agreement, context_mixing_gap
from xai_align.pinet import read_out

COLUMNS = (
    "correct",
    "r: source",
    "encoder's output",
    "gap",
    "r: encoder's output, emptied",
    "gap, emptied",
    "r: readout and encoder's output, emptied",
    "at the source: attention",
    "saliency of source",
    "of encoder's output",
    "emptied",
    "readout",
)
UNSEEN = 999


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fits", type=positive_integer, default=3)
    parser.add_argument("--steps", type=positive_integer, default=500, help="steps of a fit")
    parser.add_argument("--sequences", type=positive_integer, default=32)
    parser.add_argument("--masks", type=positive_integer, default=500)
    options = parser.parse_args()
    print(heading("encoder", "fit", *COLUMNS))
    for encoder in get_args(Encoder):
        for seed in range(options.fits):
            model = reversing(encoder, seed=seed, steps=options.steps)
            values = measured(model, *sequences(options.sequences, seed=UNSEEN), masks=options.masks)
            print(row(encoder, seed, *plus_minus(values.double().numpy())), flush=True)


def measured(model: EncoderDecoder, source: Tensor, wanted: Tensor, *, masks: int) -> Tensor:
    """Return the columns, ``[N, columns]``."""
    masked = torch.rand(masks, LENGTH, generator=torch.Generator().manual_seed(0)) < 0.5
    encoded = model.encode(source)
    logits, attention = model.decode(encoded)
    of_source = masked_divergence(model, source, masked)
    of_encoder = masked_divergence(_decoded(model), encoded, masked)
    of_emptied = masked_divergence(_decoded(model), encoded, masked, empty=model.encode(torch.zeros_like(source)))
    read = contributions(model, source, wanted)
    at = LENGTH - 1 - torch.arange(LENGTH)  # where a token of the reversed sequence comes from
    return torch.stack(
        [
            (logits.argmax(-1) == wanted).double().mean(-1),
            attention_agreement(attention, of_source),
            attention_agreement(attention, of_encoder),
            context_mixing_gap(attention, of_source, of_encoder),
            attention_agreement(attention, of_emptied),
            context_mixing_gap(attention, of_source, of_emptied),
            attention_agreement(read, of_emptied),
            *(
                (maps.argmax(-1) == at).double().mean(-1)
                for maps in (attention.mean((1, 2)), of_source, of_encoder, of_emptied, read)
            ),
        ],
        1,
    )


def _decoded(model: EncoderDecoder) -> Callable[[Tensor], Tensor]:
    return lambda encoded: model.decode(encoded)[0]


def masked_divergence(
    answer: Callable[[Tensor], Tensor], x: Tensor, masked: Tensor, *, empty: Tensor | float = 0.0
) -> Tensor:
    """Return saliency ``[N, I, T]`` of the positions of ``x``, ``[N, T, C]``, for logits ``answer(x)``, ``[N, I, K]``.

    The mean of ``KL(answer || answer with masked positions empty)`` over the masks that hide a position; ``masked``
    is bool, ``[masks, T]``.
    """
    plain = answer(x).log_softmax(-1).double()
    total = plain.new_zeros(*plain.shape[:2], x.shape[1])
    for hidden in masked:
        changed = answer(torch.where(hidden[:, None], empty, x)).log_softmax(-1).double()
        divergence = (plain.exp() * (plain - changed)).sum(-1)
        total += divergence[..., None] * hidden
    return total / masked.sum(0)


class OneStep(nn.Module):
    """Network with logits ``[N * I, K]`` for sources that are repeated for each output token."""

    def __init__(self, model: EncoderDecoder) -> None:
        super().__init__()
        self.model = model

    def forward(self, sources: Tensor, chosen: Tensor) -> Tensor:
        """Return the logits; ``chosen`` is one-hot over the output tokens, ``[N * I, I]``."""
        return (self.model(sources) * chosen[..., None]).sum(1)  # type: ignore[no-any-return]


def contributions(model: EncoderDecoder, source: Tensor, wanted: Tensor) -> Tensor:
    """Return the exact contributions ``[N, I, T]`` of the encoder's output to the logit of each token's symbol."""
    count = len(source)
    chosen = torch.eye(LENGTH).repeat(count, 1)
    repeated = source.repeat_interleave(LENGTH, 0)
    readout = read_out(
        OneStep(model).eval(), repeated, wanted.flatten(), "model.encoder", additional_forward_args=chosen
    )
    return readout.contributions.sum(-1).unflatten(0, (count, LENGTH))


if __name__ == "__main__":
    main()
