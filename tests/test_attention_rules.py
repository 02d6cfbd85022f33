"""Attention in every form of its arguments: the weights are held, the values flow, by softmax written out by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.frozen_function import assert_decomposes, assert_of_one_kind, decompose, number
from xai_align.pinet.gates import attention_rules
from xai_align.pinet.gates.frozen_gates import FrozenGates

Q, K, V = number(1, 2, 5, 4), number(2, 2, 3, 4), number(3, 2, 3, 6)
HEADS = [number(seed, 2, 2, length, 3) for seed, length in ((4, 5), (5, 3), (6, 3))]
SEEN = torch.tensor([[1, 0, 1], [1, 1, 0], [0, 1, 1], [1, 1, 1], [0, 0, 1]], dtype=torch.bool)
ADDED = number(7, 5, 3)
#: Values that a replay at zero still has.
SHIFT = torch.tensor([[0.5], [-2.0], [3.0]], dtype=torch.float64)
CAUSAL = torch.ones(5, 3, dtype=torch.bool).tril()
sdpa = F.scaled_dot_product_attention

Case = tuple[list[Tensor], Callable[..., Any], Callable[..., Any]]


def attended(q: Tensor, k: Tensor, v: Tensor, scale: float = 0.5, mask: Tensor | None = None) -> Tensor:
    """Row by row, as ``sum_j stop(p_j) v_j``."""
    scores = scale * (q[..., :, None, :] * k[..., None, :, :]).sum(-1)
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf")) if mask.dtype == torch.bool else scores + mask
    powers = (scores - scores.max(-1, keepdim=True).values).exp()
    weights = (powers / powers.sum(-1, keepdim=True)).detach()
    return (weights[..., None] * v[..., None, :, :]).sum(-2)


CASES: dict[str, Case] = {
    "plain": ([Q, K, V], sdpa, attended),
    "with heads": (HEADS, sdpa, lambda q, k, v: attended(q, k, v, 3**-0.5)),
    "with a scale": ([Q, K, V], lambda q, k, v: sdpa(q, k, v, scale=0.7), lambda q, k, v: attended(q, k, v, 0.7)),
    "causal": ([Q, K, V], lambda q, k, v: sdpa(q, k, v, is_causal=True), lambda *x: attended(*x, mask=CAUSAL)),
    "causal with a scale": (
        [Q, K, V],
        lambda q, k, v: sdpa(q, k, v, is_causal=True, scale=1.5),
        lambda *x: attended(*x, 1.5, CAUSAL),
    ),
    "by position, causal": (
        [Q, K, V],
        lambda q, k, v: sdpa(q, k, v, None, 0.0, True),
        lambda *x: attended(*x, mask=CAUSAL),
    ),
    "with a mask": (
        [Q, K, V],
        lambda q, k, v: sdpa(q, k, v + SHIFT, SEEN),
        lambda q, k, v: attended(q, k, v + SHIFT, mask=SEEN),
    ),
    "with a mask by name": (
        [Q, K, V],
        lambda q, k, v: sdpa(q, k, v, attn_mask=SEEN, scale=0.3),
        lambda *x: attended(*x, 0.3, SEEN),
    ),
    "with what is added": ([Q, K, V], lambda q, k, v: sdpa(q, k, v, ADDED), lambda *x: attended(*x, mask=ADDED)),
    "with one row for all queries": (
        [Q, K, V],
        lambda q, k, v: sdpa(q, k, v, SEEN[None, 1:2]),
        lambda *x: attended(*x, mask=SEEN[1:2]),
    ),
    "with a mask of its own": (
        [Q, K, V, ADDED],
        lambda q, k, v, m: sdpa(q, k, v + SHIFT, m),
        lambda q, k, v, m: attended(q, k, v + SHIFT, mask=m),
    ),
    "of constant queries": ([K, V], lambda k, v: sdpa(Q, k, v), lambda k, v: attended(Q, k, v)),
    "of constant values": (
        [Q, K],
        lambda q, k: sdpa(q, k, V, SEEN, scale=0.3),
        lambda q, k: attended(q, k, V, 0.3, SEEN).detach(),
    ),
    "of constant values, by position": (
        [Q],
        lambda q: sdpa(q, K, V, None, 0.0, True),
        lambda q: attended(q, K, V, mask=CAUSAL).detach(),
    ),
    "with groups of queries": (
        [number(8, 1, 4, 5, 3), number(9, 1, 2, 3, 3), number(10, 1, 2, 3, 3)],
        lambda q, k, v: sdpa(q, k, v, enable_gqa=True),
        lambda q, k, v: attended(q, k.repeat_interleave(2, 1), v.repeat_interleave(2, 1), 3**-0.5),
    ),
    "of a decomposed graph": (
        HEADS,
        lambda q, k, v: torch.ops.aten._scaled_dot_product_attention_math.default(q, k, v, ADDED, scale=0.3)[0],
        lambda q, k, v: attended(q, k, v, 0.3, ADDED),
    ),
    "of a decomposed graph, and its weights": (
        HEADS,
        lambda q, k, v: (lambda out, weights: out + weights @ v.detach())(
            *torch.ops.aten._scaled_dot_product_attention_math.default(q, k, v, ADDED, scale=0.3)
        ),
        lambda q, k, v: attended(q, k, v, 0.3, ADDED) + attended(q, k, v, 0.3, ADDED).detach(),
    ),
    "of an exported graph": (
        [one[:, :, :3] for one in HEADS],
        lambda q, k, v: torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default(q, k, v, 0.0, True)[0],
        lambda q, k, v: attended(q, k, v, 3**-0.5, CAUSAL[:3]),
    ),
}


@pytest.mark.parametrize("scores", [2**24, 12, 1])
@pytest.mark.parametrize("name", CASES)
def test_attention(name, scores, monkeypatch):
    monkeypatch.setattr(attention_rules, "_SCORES_AT_A_TIME", scores)
    inputs, operation, by_hand = CASES[name]
    found = decompose(operation, inputs)
    assert_of_one_kind(found, operation(*inputs))
    assert_decomposes(found, inputs, by_hand)


def test_scores_are_held_in_blocks_of_queries(monkeypatch):
    # 2 examples of 3 keys: 12 scores are two queries at a time, the last one alone
    monkeypatch.setattr(attention_rules, "_SCORES_AT_A_TIME", 12)
    seen: list[int] = []
    softmax = Tensor.softmax
    monkeypatch.setattr(Tensor, "softmax", lambda x, dim: seen.append(x.shape[-2]) or softmax(x, dim))
    value = V.clone().requires_grad_()
    attention_rules.HeldAttention.apply(value, (sdpa, Q, K, None, {})).sum().backward()
    assert seen == [2, 2, 1]


def test_the_way_back_is_written_down():
    z = V.clone().requires_grad_().clone()
    with FrozenGates():
        plain, grouped = sdpa(Q, K, z), sdpa(Q, K, z, enable_gqa=False)
        dropped = sdpa(Q, K, z, dropout_p=0.0)
    for value in (plain, grouped, dropped):
        assert type(value.grad_fn).__name__ == "HeldAttentionBackward"


# ---------------------------------------------------------------- nn.MultiheadAttention

TOKENS, MEMORY = number(11, 2, 5, 4), number(12, 2, 3, 4)
PADDED = torch.tensor([[False, False, True], [False, True, False]])


def module(**options: Any) -> nn.MultiheadAttention:
    torch.manual_seed(0)
    made = nn.MultiheadAttention(4, 2, batch_first=True, **options).double().eval().requires_grad_(False)
    for parameter in made.parameters():
        nn.init.normal_(parameter)
    return made


def by_module(made: nn.MultiheadAttention, x: Tensor, y: Tensor, mask: Tensor | None = None) -> Tensor:
    """With the module's weights, the heads one after the other."""
    if made.in_proj_weight is not None:
        w_q, w_k, w_v = made.in_proj_weight.split(4)
    else:
        w_q, w_k, w_v = made.q_proj_weight, made.k_proj_weight, made.v_proj_weight
    b_q, b_k, b_v = (0.0, 0.0, 0.0) if made.in_proj_bias is None else made.in_proj_bias.split(4)
    q, k, v = x @ w_q.mT + b_q, y @ w_k.mT + b_k, y @ w_v.mT + b_v
    parts = []
    for head in range(2):
        at = slice(2 * head, 2 * head + 2)
        of_head = None if mask is None else mask[:, head] if mask.dim() == 4 else mask
        parts.append(attended(q[..., at], k[..., at], v[..., at], 2**-0.5, of_head))
    out = torch.cat(parts, -1) @ made.out_proj.weight.mT
    return out if made.out_proj.bias is None else out + made.out_proj.bias


PER_HEAD = number(13, 4, 5, 3)  # [N * heads, L, S]
MODULES: dict[str, tuple[dict[str, Any], dict[str, Any], Tensor | None]] = {
    "plain": ({}, {}, None),
    "without biases": ({"bias": False}, {}, None),
    "with projections of their own": ({"kdim": 3, "vdim": 3}, {}, None),
    "with a mask": ({}, {"attn_mask": ~SEEN}, SEEN),
    "with what is added": ({}, {"attn_mask": ADDED}, ADDED),
    "with what is added to each head": ({}, {"attn_mask": PER_HEAD}, PER_HEAD.view(2, 2, 5, 3)),
    "with padding": ({}, {"key_padding_mask": PADDED}, ~PADDED[:, None]),
    "with both": ({}, {"key_padding_mask": PADDED, "attn_mask": ADDED}, ADDED.masked_fill(PADDED[:, None], -torch.inf)),
    "without weights": ({}, {"need_weights": False}, None),
}


@pytest.mark.parametrize("name", MODULES)
def test_the_module(name):
    options, given, mask = MODULES[name]
    made = module(**options)
    inputs = [TOKENS, MEMORY[..., : options.get("kdim", 4)].clone()]
    found = decompose(lambda x, y: made(x, y, y, **given)[0], inputs)
    assert_decomposes(found, inputs, lambda x, y: by_module(made, x, y, mask))


@pytest.mark.parametrize(
    ("given", "mask"),
    [
        ({}, None),
        ({"attn_mask": ~SEEN}, SEEN),
        ({"attn_mask": (~SEEN).expand(2, 5, 3)}, SEEN),
        ({"key_padding_mask": PADDED}, ~PADDED[:, None]),
        ({"key_padding_mask": PADDED, "attn_mask": ~CAUSAL}, CAUSAL & ~PADDED[:, None]),
    ],
)
def test_the_function_with_one_head(given, mask):
    made = module()
    out = made.out_proj
    weights = (made.in_proj_weight, made.in_proj_bias, None, None, False, 0.0, out.weight, out.bias)

    def operation(x: Tensor, y: Tensor) -> Tensor:
        x, y = x.transpose(0, 1), y.transpose(0, 1)
        return F.multi_head_attention_forward(x, y, y, 4, 1, *weights, **given)[0].transpose(0, 1)

    def by_hand(x: Tensor, y: Tensor) -> Tensor:
        (w_q, w_k, w_v), (b_q, b_k, b_v) = made.in_proj_weight.split(4), made.in_proj_bias.split(4)
        mixed = attended(x @ w_q.mT + b_q, y @ w_k.mT + b_k, y @ w_v.mT + b_v, 0.5, mask)
        return mixed @ out.weight.mT + out.bias

    assert_decomposes(decompose(operation, [TOKENS, MEMORY]), [TOKENS, MEMORY], by_hand)


def test_the_module_without_a_batch():
    made = module()
    keys = PADDED[0]
    found = decompose(lambda x, y: made(x, y, y, key_padding_mask=keys)[0], [TOKENS[0], MEMORY[0]])
    assert_of_one_kind(found, TOKENS[0])
    assert_decomposes(found, [TOKENS[0], MEMORY[0]], lambda x, y: by_module(made, x[None], y[None], ~keys[None])[0])


@pytest.mark.parametrize("average", [True, False])
@pytest.mark.parametrize("batched", [True, False])
def test_the_modules_weights_are_shown(average, batched):
    made = module()
    x, y = (TOKENS, MEMORY) if batched else (TOKENS[0], MEMORY[0])
    kept: list[Any] = []

    def operation(x: Tensor, y: Tensor) -> Tensor:
        out, weights = made(x, y, y, average_attn_weights=average)
        kept.append(weights)
        return out

    decompose(operation, [x, y])
    plain = made(x, y, y, average_attn_weights=average)[1]
    for weights in kept:
        assert weights.shape == plain.shape
        assert torch.allclose(weights, plain, rtol=1e-12)
    decompose(lambda x, y: kept.append(made(x, y, y, need_weights=False)[1]) or x + y.sum(), [x, y])
    assert kept[-1] is None


@pytest.mark.parametrize("options", [{"add_bias_kv": True}, {"add_zero_attn": True}])
def test_extras_are_refused(options):
    made = module(**options)
    with pytest.raises(NotImplementedError, match="read out at a later layer"):
        decompose(lambda x: made(x, x, x)[0], [TOKENS])


def test_dropout_at_work_is_refused():
    made = module(dropout=0.5)
    decompose(lambda x: made(x, x, x)[0], [TOKENS])
    made.train()
    with pytest.raises(NotImplementedError, match="dropout"):
        decompose(lambda x: made(x, x, x)[0], [TOKENS])
    still = module(dropout=0.0).train()
    decompose(lambda x: still(x, x, x)[0], [TOKENS])


def test_a_module_ends_evidence_by_its_name():
    made, z = module(), TOKENS.clone().requires_grad_().clone()
    gates = FrozenGates()
    gates.trace_stops = True
    with gates:
        made(z, z, TOKENS)
    assert gates.last_stop is not None
    assert gates.last_stop[0] == "multi_head_attention_forward"
