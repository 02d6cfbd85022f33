"""Products, quotients and scales in every form of their arguments, against the same functions detached by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor
from torch.nn import functional as F

from tests.frozen_function import assert_decomposes, assert_of_one_kind, decompose, held, number, one_by_one
from xai_align.pinet.gates.frozen_gates import FrozenGates

A, B, W, V = number(1, 3, 4), number(2, 3, 4), number(3, 4, 4) + 1, number(4, 4)
SQUARE = number(5, 3, 3) + 2 * torch.eye(3, dtype=torch.float64)
IMAGE, GRID = number(6, 1, 2, 5, 5), 0.5 * number(7, 1, 3, 3, 2).tanh()
BOXES = torch.tensor([[0.0, 0.5, 0.5, 3.5, 3.0], [0.0, 1.5, 0.0, 4.0, 2.5]], dtype=torch.float64)
OFFSETS, MASK = number(9, 1, 18, 5, 5), number(10, 1, 9, 5, 5)
KERNEL, BIAS = number(11, 3, 2, 3, 3), number(12, 3)
EULER = torch.tensor([[1.0, 0.5, 2.0], [3.0, -1.5, 0.25]], dtype=torch.float64)
#: Their products have more digits than float32.
LARGE = torch.tensor([[4097.0, 4099.0], [8193.0, 5.0]], dtype=torch.float64)
TABLE = number(8, 5, 3)
IDS = torch.tensor([[0, 4], [2, 2]])

Case = tuple[list[Tensor], Callable[..., Any], Callable[..., Any]]


def size(d: Tensor, p: float = 2.0, *, keepdim: bool = False) -> Tensor:
    """``sum_i d_i stop(ds/dd_i)`` of the p-norm ``s`` over the last axis."""
    s = d.norm(p, dim=-1, keepdim=True)
    value = (d * (d.sign() * (d.abs() / s) ** (p - 1)).detach()).sum(-1)
    return value[..., None] if keepdim else value


def determinant(x: Tensor) -> Tensor:
    """One row after the other by its cofactors, a row's share each."""
    return (x * (torch.linalg.inv(x).mT * torch.det(x)).detach()).sum() / len(x)


def interpolated(x: Tensor, q: float) -> Tensor:
    """Quantiles over the last axis from the sorted entries."""
    at = q * (x.shape[-1] - 1)
    low, share = int(at), at - int(at)
    ordered = x.sort(-1).values
    return ordered[..., low] * (1 - share) + ordered[..., min(low + 1, x.shape[-1] - 1)] * share


PRODUCTS: dict[str, Case] = {
    "a constant times x": ([A], lambda a: torch.mul(B, a), lambda a: B * a),
    "x times a constant": ([A], lambda a: torch.mul(a, B), lambda a: B * a),
    "a constant matrix times x": ([W], lambda w: A @ w, lambda w: A @ w),
    "linear with a bias of its own": ([A, V], lambda a, v: F.linear(a, W, v), lambda a, v: a @ W.mT + v),
    "linear with weights of its own": (
        [A, W, V],
        F.linear,
        lambda a, w, v: one_by_one(lambda a, w: a @ w.mT, a, w) + v,
    ),
    "vecdot over rows": (
        [A, B],
        lambda a, b: torch.linalg.vecdot(a, b, dim=0),
        lambda a, b: one_by_one(torch.mul, a, b).sum(0),
    ),
    "cross with a constant": (
        [EULER],
        lambda a: torch.linalg.cross(a.T, EULER.T + 1, dim=0),
        lambda a: torch.stack(
            [a[:, (i + 1) % 3] * (EULER + 1)[:, (i + 2) % 3] - a[:, (i + 2) % 3] * (EULER + 1)[:, (i + 1) % 3]
             for i in range(3)]
        ),
    ),
    "tensordot over one axis": (
        [A, W],
        lambda a, w: torch.tensordot(a, w, dims=1),
        lambda a, w: one_by_one(torch.matmul, a, w),
    ),
    "tensordot with a constant": ([A], lambda a: torch.tensordot(a, B, dims=2), lambda a: (a * B).sum()),
    "einsum of a list and a constant": (
        [A, V],
        lambda a, v: torch.einsum("ij,j,jk->ik", [a, v, W]),
        lambda a, v: one_by_one(torch.mul, a, v) @ W,
    ),
    "multi_dot": (
        [A, W],
        lambda a, w: torch.linalg.multi_dot([a, w, V]),
        lambda a, w: one_by_one(torch.matmul, a, w) @ V,
    ),
    "chain_matmul": ([A, W], lambda a, w: torch.chain_matmul(a, w), lambda a, w: one_by_one(torch.matmul, a, w)),
    "bilinear": (
        [A, B, V[:2]],
        lambda a, b, v: F.bilinear(a, b, WEIGHTS, v),
        lambda a, b, v: one_by_one(lambda a, b: torch.einsum("ni,oij,nj->no", a, WEIGHTS, b), a, b) + v,
    ),
    "bilinear of one side without a bias": (
        [A],
        lambda a: F.bilinear(a, B, WEIGHTS),
        lambda a: torch.einsum("ni,oij,nj->no", a, WEIGHTS, B),
    ),
    "bilinear with weights of its own": (
        [A, B, number(11, 2, 4, 4)],
        F.bilinear,
        lambda *factors: one_by_one(lambda a, b, w: torch.einsum("ni,oij,nj->no", a, w, b), *factors),
    ),
    "addmm": ([B, A, W], torch.addmm, lambda x, a, w: x + one_by_one(torch.matmul, a, w)),
    "addmm with a constant on the right": (
        [B, A],
        lambda x, a: torch.addmm(x, a, W, beta=0.5, alpha=3),
        lambda x, a: 0.5 * x + 3 * a @ W,
    ),
    "addmm with a constant on the left": (
        [B, W],
        lambda x, w: torch.addmm(x, A, w, beta=0.5, alpha=3),
        lambda x, w: 0.5 * x + 3 * A @ w,
    ),
    "addmm onto x alone": ([B], lambda x: torch.addmm(x, A, W), lambda x: x + A @ W),
    "addcmul": ([A, B], lambda a, b: torch.addcmul(a, a, b), lambda a, b: a + one_by_one(torch.mul, a, b)),
    "addcdiv": ([A, B], lambda a, b: torch.addcdiv(a, a, b.abs() + 1), lambda a, b: a + a / (b.abs() + 1).detach()),
    "trapezoid": ([A], torch.trapezoid, lambda a: ((a[:, 1:] + a[:, :-1]) / 2).sum(1)),
    "trapezoid of equal steps, by aten": (
        [A],
        lambda a: torch.ops.aten.trapezoid.dx(a, dx=0.5, dim=0),
        lambda a: 0.25 * (a[1:] + a[:-1]).sum(0),
    ),
    "trapezoid of equal steps": (
        [A],
        lambda a: torch.trapezoid(a, dx=0.5, dim=0),
        lambda a: 0.25 * (a[1:] + a[:-1]).sum(0),
    ),
    "cumulative trapezoid over rows": (
        [A, B],
        lambda a, b: torch.cumulative_trapezoid(a, b, dim=0),
        lambda a, b: one_by_one(lambda a, b: ((a[1:] + a[:-1]) / 2 * b.diff(dim=0)).cumsum(0), a, b),
    ),
    "cosine similarity by its defaults": (
        [number(9, 2, 3, 4), number(10, 2, 3, 4)],
        F.cosine_similarity,
        lambda a, b: one_by_one(torch.mul, *(x / x.norm(dim=1, keepdim=True).detach() for x in (a, b))).sum(1),
    ),
    "cosine similarity of small vectors": (
        [A, B],
        lambda a, b: F.cosine_similarity(1e-9 * a, b, dim=1),
        lambda a, b: one_by_one(torch.mul, 0.1 * a, b / b.norm(dim=1, keepdim=True).detach()).sum(1),
    ),
}  # fmt: skip
WEIGHTS = number(11, 2, 4, 4)

QUOTIENTS: dict[str, Case] = {
    "by a constant": ([A], lambda a: torch.div(a, 3.0), lambda a: a / 3),
    "by x": ([A, B], lambda a, b: a / (b * b + 1), lambda a, b: a / (b * b + 1).detach()),
    "of a constant": ([A], lambda a: torch.div(B, a * a + 1), lambda a: (B / (a * a + 1)).detach()),
    "of a number": ([A], lambda a: torch.div(torch.tensor(2.0), a * a + 1), lambda a: (2 / (a * a + 1)).detach()),
    "rounded, by a constant": (
        [A],
        lambda a: torch.div(a, 0.3, rounding_mode="floor"),
        lambda a: (a / 0.3).floor().detach(),
    ),
    "rounded, by x": (
        [A, B],
        lambda a, b: torch.div(a, b * b + 0.5, rounding_mode="trunc"),
        lambda a, b: (a / (b * b + 0.5)).trunc().detach(),
    ),
    "rounding that is none": (
        [A, B],
        lambda a, b: torch.div(a, b * b + 0.5, rounding_mode=None),
        lambda a, b: a / (b * b + 0.5).detach(),
    ),
    "xlogy": ([A, B], lambda a, b: torch.xlogy(a, b * b + 1), lambda a, b: a * (b * b + 1).log().detach()),
    "xlogy with a constant": ([A], lambda a: torch.xlogy(a, B.exp()), lambda a: a * B),
    "ldexp": ([A], lambda a: torch.ldexp(a, IDS[:1, :1]), lambda a: a * 2.0 ** IDS[0, 0]),
    "lerp by a number": ([A, B], lambda a, b: torch.lerp(a, b, 0.25), lambda a, b: 0.75 * a + 0.25 * b),
    "solve": (
        [SQUARE, A],
        torch.linalg.solve,
        lambda s, a: torch.linalg.inv(s).detach() @ a,
    ),
    "solve from the left": (
        [SQUARE, A],
        lambda s, a: torch.linalg.solve(s, a.mT, left=False),
        lambda s, a: a.mT @ torch.linalg.inv(s).detach(),
    ),
    "solve a constant system": (
        [A],
        lambda a: torch.linalg.solve_triangular(SQUARE.triu(), a, upper=True),
        lambda a: torch.linalg.inv(SQUARE.triu()) @ a,
    ),
    "cholesky_solve": (
        [A, SQUARE],
        lambda a, s: torch.cholesky_solve(a, s.triu(), upper=True),
        lambda a, s: torch.linalg.inv(s.triu().mT @ s.triu()).detach() @ a,
    ),
    "cholesky_solve a constant system": (
        [A],
        lambda a: torch.cholesky_solve(a, SQUARE.tril()),
        lambda a: torch.linalg.inv(SQUARE.tril() @ SQUARE.tril().mT) @ a,
    ),
    "grid_sample of a constant grid": (
        [IMAGE],
        lambda x: F.grid_sample(x, GRID, "nearest", "border", align_corners=True),
        lambda x: F.grid_sample(x, GRID, "nearest", "border", align_corners=True),
    ),
    "grid_sample": (
        [IMAGE, GRID],
        lambda x, g: F.grid_sample(x, 1.5 * g, "bilinear", "reflection", True),
        lambda x, g: F.grid_sample(x, 1.5 * g.detach(), "bilinear", "reflection", True),
    ),
    "grid_sampler": (
        [IMAGE, GRID],
        lambda x, g: torch.grid_sampler(x, 1.5 * g, 1, 1, True),
        lambda x, g: F.grid_sample(x, 1.5 * g.detach(), "nearest", "border", True),
    ),
    "regions": (
        [IMAGE, BOXES],
        lambda x, b: torchvision.ops.roi_align(x - 7, b, 2, spatial_scale=0.9, aligned=True),
        lambda x, b: torchvision.ops.roi_align(x, b.detach(), 2, 0.9, -1, True) - 7,
    ),
    "constant regions": (
        [IMAGE],
        lambda x: torchvision.ops.roi_align(x, BOXES, 2),
        lambda x: torchvision.ops.roi_align(x, BOXES, 2),
    ),
    "deformable convolution": (
        [IMAGE, OFFSETS, MASK],
        lambda x, o, m: torchvision.ops.deform_conv2d(x, o, KERNEL, BIAS, mask=m, padding=1),
        lambda x, o, m: torchvision.ops.deform_conv2d(x, o.detach(), KERNEL, BIAS, mask=m.detach(), padding=1),
    ),
    "deformable convolution with a kernel from the input": (
        [IMAGE, KERNEL],
        lambda x, w: torchvision.ops.deform_conv2d(x, OFFSETS, w, padding=1),
        lambda x, w: one_by_one(lambda a, b: torchvision.ops.deform_conv2d(a, OFFSETS, b, padding=1), x, w),
    ),
    "gradient": (
        [A],
        lambda a: torch.gradient(a, spacing=0.5, dim=1)[0][:, 1:-1],
        lambda a: a[:, 2:] - a[:, :-2],
    ),
    "gradient over one's own places": (
        [A, V],
        lambda a, v: torch.gradient(a, spacing=((v * v + 1).cumsum(0),), dim=1, edge_order=1)[0][:, 0],
        lambda a, v: (a[:, 1] - a[:, 0]) / (v[1] * v[1] + 1).detach(),
    ),
    "gradient by its defaults": (
        [V],
        lambda v: torch.gradient(v)[0],
        lambda v: torch.stack([v[1] - v[0], (v[2] - v[0]) / 2, (v[3] - v[1]) / 2, v[3] - v[2]]),
    ),
    "rows of a table": ([TABLE], lambda t: F.embedding(IDS, t), lambda t: t[IDS.flatten()].view(2, 2, 3)),
    "rows of a table, by aten": (
        [TABLE],
        lambda t: torch.ops.aten.embedding.default(t, IDS),
        lambda t: t[IDS.flatten()].view(2, 2, 3),
    ),
}

HOMOGENEOUS: dict[str, Case] = {
    "prod of all": ([EULER], torch.prod, lambda x: one_by_one(lambda *f: torch.stack(f).prod(0), *x.flatten())),
    "prod by name, kept": (
        [EULER],
        lambda x: torch.prod(x, dim=1, keepdim=True),
        lambda x: one_by_one(lambda *f: torch.stack(f).prod(0), *x.T)[:, None],
    ),
    "prod over rows": ([EULER], lambda x: x.prod(0, True), lambda x: one_by_one(torch.mul, *x)[None]),
    "prod in another precision": (
        [LARGE],
        lambda x: x.float().prod(1, dtype=torch.float64),
        lambda x: one_by_one(torch.mul, *x.T),
    ),
    "cumprod in another precision": (
        [LARGE],
        lambda x: x.float().cumprod(1, dtype=torch.float64),
        lambda x: torch.stack([x[:, 0], one_by_one(torch.mul, *x.T)], 1),
    ),
    "prod of one in another precision": (
        [LARGE],
        lambda x: x[0, 0].float().prod(dtype=torch.float64),
        lambda x: x[0, 0],
    ),
    "prod of one": ([V], lambda v: torch.prod(v[2]), lambda v: v[2]),
    "prod of one by name": ([V], lambda v: torch.prod(v[2], dim=0, keepdim=True), lambda v: v[2]),
    "prod of one by position": ([V], lambda v: torch.prod(v[2], 0), lambda v: v[2]),
    "prod of none": ([V], lambda v: torch.cat([v, v[:0].prod()[None]]), lambda v: torch.cat([v, v.new_ones(1)])),
    "prod of none over rows": ([A], lambda a: a[:0].prod(0) + a, lambda a: 1 + a),
    "prod of a vector": ([EULER[0]], lambda v: v.prod(), lambda v: one_by_one(lambda *f: torch.stack(f).prod(), *v)),
    "cumprod over rows": (
        [EULER],
        lambda x: torch.cumprod(x, dim=0),
        lambda x: torch.stack([x[0], one_by_one(torch.mul, *x)]),
    ),
    "cumprod of a vector": (
        [EULER[0, :2]],
        lambda v: v.cumprod(0),
        lambda v: torch.stack([v[0], one_by_one(torch.mul, *v)]),
    ),
    "cumprod of one": ([V], lambda v: torch.cumprod(v[2], dim=0), lambda v: v[2]),
    "cumprod of one in another precision": (
        [LARGE],
        lambda x: x[0, 0].float().cumprod(0, dtype=torch.float64),
        lambda x: x[0, 0],
    ),
    "matrix_power": (
        [SQUARE],
        lambda s: torch.matrix_power(s, 3),
        lambda s: one_by_one(lambda a, b, c: a @ b @ c, s, s, s),
    ),
    "matrix_power of 1": ([SQUARE], lambda s: torch.linalg.matrix_power(s, 1), lambda s: s),
    "matrix_power of 0": (
        [SQUARE],
        lambda s: torch.matrix_power(s, 0) + s,
        lambda s: torch.eye(3, dtype=s.dtype) + s,
    ),
    "matrix_power of -1": (
        [SQUARE],
        lambda s: torch.matrix_power(s, -1) + s,
        lambda s: torch.linalg.inv(s).detach() + s,
    ),
    "det": ([SQUARE], torch.linalg.det, determinant),
    "det of a batch of 2 x 2": (
        [torch.stack([EULER[:, :2], EULER[:, 1:] + 1, EULER[:, ::2]]).view(1, 3, 2, 2)],
        torch.det,
        lambda x: torch.stack([determinant(one) for one in x[0]])[None],
    ),
    "det of nothing": (
        [V],
        lambda v: v.sum() + torch.det(torch.zeros(1, 2, 0, 0, dtype=v.dtype) + v[:0, None].mT)[0, 0],
        lambda v: v.sum() + 1,
    ),
    "hypot": (
        [A, B],
        torch.hypot,
        lambda a, b: a * held(a, (a.square() + b.square()).sqrt()) + b * held(b, (a.square() + b.square()).sqrt()),
    ),
    "quantile": (
        [EULER],
        lambda x: torch.quantile(x, 0.3, 1, interpolation="linear"),
        lambda x: interpolated(x, 0.3),
    ),
    "quantile by names": (
        [EULER],
        lambda x: torch.quantile(x, q=0.75, dim=0, keepdim=True, interpolation="lower"),
        lambda x: x.sort(0).values[:1],
    ),
    "quantile of one's own": (
        [EULER, V],
        lambda x, v: torch.nanquantile(x, v[3] * v[3] / 10, dim=1),
        lambda x, v: interpolated(x, float(v[3].detach()) ** 2 / 10),
    ),
}

SCALES: dict[str, Case] = {
    "norm": ([A], lambda a: torch.norm(a, 3, 1), lambda a: (a.abs() ** 3).sum(1).detach() ** (1 / 3)),
    "vector_norm": (
        [A],
        lambda a: torch.linalg.vector_norm(a, 1, dim=0, keepdim=True),
        lambda a: a.abs().sum(0, keepdim=True).detach(),
    ),
    "var": (
        [A],
        lambda a: torch.var(a, 1, correction=0),
        lambda a: (a - a.mean(1, keepdim=True)).square().mean(1).detach(),
    ),
    "std_mean over rows": (
        [A],
        lambda a: torch.cat(torch.std_mean(a, 0, True, True)),
        lambda a: torch.stack([((a - a.mean(0)).square().sum(0) / 2).sqrt().detach(), a.mean(0)]),
    ),
    "var_mean over rows": (
        [A],
        lambda a: torch.cat(torch.var_mean(a, dim=0)),
        lambda a: torch.cat([((a - a.mean(0)).square().sum(0) / 2).detach(), a.mean(0)]),
    ),
    "var_mean, unbiased and not kept": (
        [A],
        lambda a: torch.stack(torch.var_mean(a, 0, False)),
        lambda a: torch.stack([(a - a.mean(0)).square().mean(0).detach(), a.mean(0)]),
    ),
    "var_mean, kept by name": (
        [A],
        lambda a: torch.cat(torch.var_mean(a, dim=1, keepdim=True)),
        lambda a: torch.cat([((a - a.mean(1)[:, None]).square().sum(1) / 3).detach(), a.mean(1)])[:, None],
    ),
    "var_mean, corrected": (
        [A],
        lambda a: torch.cat(torch.var_mean(a, dim=1, correction=0)),
        lambda a: torch.cat([(a - a.mean(1)[:, None]).square().mean(1).detach(), a.mean(1)]),
    ),
    "var_mean of all, kept": (
        [A],
        lambda a: torch.cat(torch.var_mean(a, dim=None, keepdim=True)),
        lambda a: torch.stack([((a - a.mean()).square().sum() / 11).detach(), a.mean()])[:, None],
    ),
    "var_mean of all": (
        [A],
        lambda a: torch.stack(torch.var_mean(a)),
        lambda a: torch.stack([((a - a.mean()).square().sum() / 11).detach(), a.mean()]),
    ),
    "std_mean of all, biased": (
        [A],
        lambda a: torch.stack(torch.std_mean(a, False)),
        lambda a: torch.stack([(a - a.mean()).square().mean().sqrt().detach(), a.mean()]),
    ),
    "cdist": (
        [A, B],
        torch.cdist,
        lambda a, b: (a[:, None] - b[None]).square().sum(-1).sqrt().detach(),
    ),
    "cdist, by aten": (
        [A, B],
        lambda a, b: torch.ops.aten.cdist.default(a, b, 1.0, 2),
        lambda a, b: (a[:, None] - b[None]).abs().sum(-1).detach(),
    ),
    "cdist by a mode": (
        [A, B],
        lambda a, b: torch.cdist(a, b, 1.0, "donot_use_mm_for_euclid_dist"),
        lambda a, b: (a[:, None] - b[None]).abs().sum(-1).detach(),
    ),
    "cdist by a mode's name": (
        [A, B],
        lambda a, b: torch.cdist(a, b, p=1.0, compute_mode="donot_use_mm_for_euclid_dist"),
        lambda a, b: (a[:, None] - b[None]).abs().sum(-1).detach(),
    ),
    "pairwise_distance": (
        [A, B],
        lambda a, b: F.pairwise_distance(a, b, 1.0, 0.5, True),
        lambda a, b: (a - b + 0.5).abs().sum(-1, keepdim=True).detach(),
    ),
    "pairwise_distance by names": (
        [A, B],
        lambda a, b: F.pairwise_distance(a, b, p=1.0, eps=0.5, keepdim=True),
        lambda a, b: (a - b + 0.5).abs().sum(-1, keepdim=True).detach(),
    ),
    "dist": ([A, B], lambda a, b: torch.dist(a, b, 1), lambda a, b: (a - b).abs().sum().detach()),
}

FLOWING: dict[str, Case] = {
    "a constant over x": (
        [A],
        lambda a: torch.div(B, a.exp() * 0 + a * a + 1),
        lambda a: (one_by_one(torch.mul, a, a) + 1) * (B / (a * a + 1).square()).detach(),
    ),
    "norm by name": ([A], lambda a: torch.norm(a, p=3, dim=1), lambda a: size(a, 3.0)),
    "vector_norm": (
        [A],
        lambda a: torch.linalg.vector_norm(a, 3, dim=1, keepdim=True),
        lambda a: size(a, 3.0, keepdim=True),
    ),
    "var": (
        [A],
        lambda a: torch.var(a, 1, correction=0, keepdim=True),
        lambda a: one_by_one(torch.mul, *[a - a.mean(1, keepdim=True)] * 2).mean(1, keepdim=True),
    ),
    "std": ([A], lambda a: a.std(1), lambda a: size(a - a.mean(1, keepdim=True)) / 3**0.5),
    "var_mean": (
        [A],
        lambda a: torch.stack(torch.var_mean(a, dim=1)),
        lambda a: torch.stack([one_by_one(torch.mul, *[a - a.mean(1, keepdim=True)] * 2).sum(1) / 3, a.mean(1)]),
    ),
    "cdist": ([A, B], torch.cdist, lambda a, b: size(a[:, None] - b[None])),
    "cdist, by aten": ([A, B], torch.ops.aten.cdist.default, lambda a, b: size(a[:, None] - b[None])),
    "cdist by another norm": (
        [A, B],
        lambda a, b: torch.cdist(a, b, 3.0),
        lambda a, b: size(a[:, None] - b[None], 3.0),
    ),
    "dist": ([A, B], torch.dist, lambda a, b: size((a - b).flatten())),
    "dist by another norm": ([A, B], lambda a, b: torch.dist(a, b, 3), lambda a, b: size((a - b).flatten(), 3.0)),
    "pairwise_distance": ([A, B], F.pairwise_distance, lambda a, b: size(a - b + 1e-6)),
    "pairwise_distance of more axes": (
        [number(9, 2, 3, 4), number(10, 2, 3, 4)],
        lambda a, b: F.pairwise_distance(a, b, 3.0, 0.5, True),
        lambda a, b: size(a - b + 0.5, 3.0, keepdim=True),
    ),
    "pairwise_distance by names": (
        [A, B],
        lambda a, b: F.pairwise_distance(a, b, eps=0.25, keepdim=True),
        lambda a, b: size(a - b + 0.25, keepdim=True),
    ),
}

CASES = {**PRODUCTS, **QUOTIENTS, **HOMOGENEOUS, **SCALES}


@pytest.mark.parametrize("name", CASES)
def test_what_a_rule_hands_on(name):
    inputs, operation, by_hand = CASES[name]
    found = decompose(operation, inputs)
    assert_of_one_kind(found, operation(*inputs))
    assert_decomposes(found, inputs, by_hand)


@pytest.mark.parametrize("name", FLOWING)
def test_what_a_rule_hands_on_where_scales_flow(name):
    inputs, operation, by_hand = FLOWING[name]
    found = decompose(operation, inputs, flowing=True)
    assert_of_one_kind(found, operation(*inputs))
    assert_decomposes(found, inputs, by_hand)


def test_a_table_that_changes_is_refused():
    with pytest.raises(NotImplementedError, match="max_norm"):
        decompose(lambda t: F.embedding(IDS, t, max_norm=1.0), [TABLE])
    found = decompose(lambda t: torch.ops.aten.embedding.default(t, IDS, -1, False), [TABLE])
    assert torch.equal(found.outputs[0], TABLE[IDS])


def test_a_matrix_that_is_solved_with_stops():
    gates, z = FrozenGates(), SQUARE.clone().requires_grad_().clone()
    gates.trace_stops = True
    with gates:
        torch.linalg.solve(z, A)
    assert gates.last_stop == ("linalg_solve", "the network")
