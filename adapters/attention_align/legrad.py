"""LeGrad (Bousselham et al., ICCV 2025, arXiv 2404.03214), for a network with a classifier."""

from __future__ import annotations

from torch import Tensor

from attention_align.attention_method import AttentionMethod
from attention_align.attention_trace import AttentionTrace
from attention_align.layer_gradients import gradients
from attention_align.layer_logits import layer_logits
from xai_align.question import Question, answers


class LeGrad(AttentionMethod):
    """Positive gradient of each layer's own answer with respect to that layer's attention.

    ``s_l`` is the answer of the network's own head (final norm, pooling, linear layer) to the output of layer ``l``,
    and the map is the mean of ``relu(ds_l/dA_l)`` over layers, heads and query tokens. A head that reads a class token
    has a gradient in that token's row alone. The paper's scaling to 0..1 is left out.

    Example::

        import timm

        network = timm.create_model("test_vit", img_size=32).eval()
        LeGrad(network).attribute(torch.rand(2, 3, 32, 32), target=0)  # [2, 3, 32, 32]
    """

    name = "legrad"

    def relevance(self, trace: AttentionTrace, questions: list[Question]) -> Tensor:
        """Return ``1/D sum_l 1/(h L) sum_h sum_i relu(ds_l/dA_l)[h, i]`` of ``D`` layers, ``[N, L]``."""
        total = trace.weights[0].new_zeros(trace.weights[0].shape[0], trace.weights[0].shape[-1])
        for A, logits in zip(trace.weights, layer_logits(trace), strict=True):
            s = answers(questions, logits).sum()
            (dA,) = gradients(s, [A])
            total = total + dA.clamp(min=0).mean((1, 2))
        return total / len(trace.weights)
