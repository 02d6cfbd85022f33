r"""Removal of patches from a transformer's sequence of tokens, which needs no fill.

A patch that is filled with something else is still an input. A transformer can omit it: its token is dropped, and
the others keep their position embeddings. With a visibility ``m_j`` in [0, 1] of each token ``j`` there is a soft form,

    A_ij = m_j exp(s_ij) / sum_k m_k exp(s_ik)         pooled = sum_j m_j x_j / sum_j m_j

for attention scores ``s`` (``log m_j`` is added to them) and means over tokens. It is the unchanged network for ``m``
of 1, equals leaving out the tokens with ``m_j = 0``, and has a gradient in between. Class, distillation and register
tokens have no position in the image and are kept.

A network takes the visibility as one more channel of its images, like an alpha channel; ``m_j`` is its mean over a
patch.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.functional import interpolate
from torch.overrides import TorchFunctionMode

from xai_align._tools.batches import rows_of
from xai_align._tools.drawn import normal, permutation
from xai_align._tools.logits import select_logits
from xai_align._tools.model_state import check_evaluation_mode
from xai_align._tools.refused_images import refused_images
from xai_align._tools.replica import Replica
from xai_align._tools.thread_state import hides_interrupt, restores_thread_state
from xai_align.features.run_with_features import cloned
from xai_align.perturbation.token_grid import TokenGrid, token_grid
from xai_align.pinet.gates.rule_registry import operation_name

#: Largest change of the answer by what hidden patches hold, as a share of that change where nothing is hidden.
UNSEEN = 1e-3
#: Share of a patch that is changed to test this, where patches are no whole number of pixels.
INSIDE = 0.5

_name = cache(operation_name)
_MULTI_HEAD = inspect.signature(F.multi_head_attention_forward)


class LeftOut(TorchFunctionMode):
    """Mode in which attention and means over tokens weight each token by its visibility.

    It intercepts ``scaled_dot_product_attention``, ``nn.MultiheadAttention``, softmax over a last axis of tokens, and
    means over tokens or over a grid of them.

    Args:
        grid: the network's tokens.
        visible: ``m``, ``[N, patches]``, row by row.

    Attributes:
        attentions: number of attention operations that were weighted.
    """

    def __init__(self, grid: TokenGrid, visible: Tensor) -> None:
        super().__init__()
        self.grid, self.visible, self.attentions = grid, visible, 0
        self._tokens: dict[int, Tensor | None] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Compute one operation (called by PyTorch, with this mode disabled)."""
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            return self._attend(func, *args, **kwargs)
        if func is F.multi_head_attention_forward:
            return self._multi_head(func, *args, **kwargs)
        name = _name(func)
        if name == "softmax":
            return self._softmax(func, *args, **kwargs)
        if name == "mean":
            return self._mean(func, args, kwargs)
        if name in ("adaptive_avg_pool1d", "adaptive_avg_pool2d"):
            return self._pooled(func, name, args, kwargs)
        return func(*args, **kwargs)

    def _of_tokens(self, rows: int, count: int) -> Tensor | None:
        """Return ``m`` of all tokens ``[N, count]``, if this is a batch ``N`` of sequences of that many tokens."""
        if rows != len(self.visible):
            return None
        if count not in self._tokens:
            m = self._tokens[count] = self.grid.of_tokens(self.visible, count)
            if m is not None and not bool((m > 0).any(1).all()):
                raise ValueError(
                    "every patch of an image is left out, and the network has no class token to answer with, or means "
                    "over patches; leave some in (fractions below 1), or use a fill"
                )
        return self._tokens[count]

    def _log(self, rows: int, count: int) -> Tensor | None:
        """Return ``log m``, with a gradient of 0 instead of none where ``m`` is 0."""
        m = self._of_tokens(rows, count)
        if m is None:
            return None
        self.attentions += 1
        return torch.where(m > 0, m, 1).log().masked_fill(m <= 0, float("-inf"))

    def _attend(
        self,
        func: Callable[..., Tensor],
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        **kwargs: Any,
    ) -> Tensor:
        bias = None if is_causal else self._log(len(key), key.shape[-2])
        if bias is not None:
            bias = bias.to(query.dtype).reshape(len(key), *(1,) * (key.dim() - 2), key.shape[-2])
            attn_mask = _with_bias(attn_mask, bias)
        return func(query, key, value, attn_mask, dropout_p, is_causal, **kwargs)

    def _multi_head(self, func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        given = _MULTI_HEAD.bind(*args, **kwargs)
        given.apply_defaults()
        key, padding = given.arguments["key"], given.arguments["key_padding_mask"]  # [L, N, C], [N, L]
        bias = None if key.dim() != 3 or given.arguments["is_causal"] else self._log(key.shape[1], len(key))
        if bias is not None:
            if padding is not None and padding.dtype == torch.bool:
                padding = ~padding  # there, True is what is left out
            given.arguments["key_padding_mask"] = _with_bias(padding, bias.to(key.dtype))
        mask = given.arguments["attn_mask"]
        if bias is not None and mask is not None and mask.dtype == torch.bool:  # both of one kind
            given.arguments["attn_mask"] = torch.zeros_like(mask, dtype=key.dtype).masked_fill(mask, float("-inf"))
        return func(*given.args, **given.kwargs)

    def _softmax(self, func: Callable[..., Tensor], scores: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        axis = kwargs.get("dim", args[0] if args else None)
        if scores.dim() in (3, 4) and axis in (-1, scores.dim() - 1):
            heads = len(scores) // max(1, len(self.visible)) if scores.dim() == 3 else 1
            bias = self._log(len(scores) // max(1, heads), scores.shape[-1])
            if bias is not None and heads * len(bias) == len(scores):
                bias = bias.to(scores.dtype).repeat_interleave(heads, 0)
                scores = scores + bias.reshape(len(scores), *(1,) * (scores.dim() - 2), scores.shape[-1])
        return func(scores, *args, **kwargs)

    def _mean(self, func: Callable[..., Tensor], args: Any, kwargs: Any) -> Tensor:
        x = args[0] if args else kwargs.get("input")
        axes = kwargs.get("dim", kwargs.get("axis", args[1] if len(args) > 1 else None))
        keep = kwargs.get("keepdim", args[2] if len(args) > 2 else False)
        further = args[3:], set(kwargs) - {"input", "dim", "axis", "keepdim"}
        if axes is None or not isinstance(x, Tensor) or any(map(len, further)):
            return func(*args, **kwargs)
        found = self._weighted(x, tuple(axes) if isinstance(axes, tuple | list) else (axes,))
        if found is None:
            return func(*args, **kwargs)
        return found if keep else found.flatten(1)

    def _pooled(self, func: Callable[..., Tensor], name: str, args: Any, kwargs: Any) -> Tensor:
        x = args[0]
        size = args[1] if len(args) > 1 else kwargs.get("output_size")
        axes = (2,) if name.endswith("1d") else (2, 3)
        of_batch = x.dim() == len(axes) + 2
        found = self._weighted(x, axes) if of_batch and size in (1, (1,), [1], (1, 1), [1, 1]) else None
        return func(*args, **kwargs) if found is None else found

    def _weighted(self, x: Tensor, axes: Sequence[int]) -> Tensor | None:
        """Return ``sum_j m_j x_j / sum_j m_j`` with axes kept; None: these are not the axes of tokens."""
        axes = sorted(axis % x.dim() for axis in axes)
        sizes = [x.shape[axis] for axis in axes]
        m = None
        if x.dim() == 3 and axes in ([1], [2]):
            m = self._of_tokens(len(x), sizes[0])
            if axes == [2] and x.shape[1] in self.grid.spaces:  # channels of tokens, perhaps
                m = None
        elif x.dim() == 4 and axes in ([1, 2], [2, 3]) and sizes == [self.grid.rows, self.grid.columns]:
            m = self.visible if len(x) == len(self.visible) else None
        if m is None:
            return None
        shape = [size if axis in (0, *axes) else 1 for axis, size in enumerate(x.shape)]
        m = m.to(x.dtype).reshape(shape)
        return (x * m).sum(axes, keepdim=True) / m.sum(axes, keepdim=True)


def _with_bias(mask: Tensor | None, bias: Tensor) -> Tensor:
    """Return a mask of attention scores with a bias; in a boolean mask, True marks visible positions."""
    if mask is None:
        return bias
    return torch.where(mask, bias, float("-inf")) if mask.dtype == torch.bool else mask + bias


@dataclass(frozen=True)
class TokenDropping:
    """Removal of patches from a network's tokens, see :func:`token_dropping`.

    Attributes:
        grid: the network's tokens.
        channels: number of channels of its images.
        shortens: whether the network runs on a shorter sequence without change, after :attr:`TokenGrid.entry`.
    """

    grid: TokenGrid
    channels: int
    shortens: bool = False

    def on(self, copy: nn.Module) -> None:
        """Let a copy of the network take images with a channel of visibility: ``[N, C + 1, H, W]``.

        Images ``[N, C, H, W]`` are fully visible. If visibility is 0 or 1 throughout, needs no gradient, and all images
        show the same number of patches, hidden tokens are cut out of the sequence if the network allows.
        """
        plain = copy.forward
        kept: list[Tensor] = []  # of a shorter sequence

        def shortened(module: nn.Module, args: Any, output: Tensor) -> Tensor:
            return _rows(output, kept[0], self.grid) if kept else output

        if self.shortens and self.grid.entry is not None:
            copy.get_submodule(self.grid.entry).register_forward_hook(shortened)

        @restores_thread_state
        def forward(x: Tensor, *extra: Any, **options: Any) -> Any:
            if x.shape[1] == self.channels:
                return plain(x, *extra, **options)
            visible = self.grid.of_pixels(x[:, self.channels :])
            x = x[:, : self.channels]
            if self.shortens and not visible.requires_grad and _can_be_cut(visible):
                kept.append(visible > 0.5)
                try:
                    return plain(x, *extra, **options)
                finally:
                    kept.clear()
            with LeftOut(self.grid, visible):
                return plain(x, *extra, **options)

        copy.forward = forward


def token_dropping(model: nn.Module, images: Tensor, extra: Sequence[Any] = ()) -> TokenDropping:
    """Return the removal of patches from a network's tokens, after testing that hidden ones have no effect.

    The test takes four passes on the first image: with half of the patches hidden, the answer must not depend on their
    content.

    Args:
        model: a network in eval mode that keeps one grid of tokens; copies of it are run.
        images: ``[N, C, H, W]``.
        extra: further arguments of the model.

    Raises:
        ValueError: the network does not take the images, or keeps no grid of tokens (convolutions, windows, several
            resolutions), or hidden patches have an effect: tokens are mixed elsewhere than in softmax attention over
            all of them and in means.

    Example::

        import timm

        network = timm.create_model("test_vit", img_size=32).eval()
        dropping = token_dropping(network, images)  # 2 x 2 patches
    """
    check_evaluation_mode(model)
    grid = token_grid(model, images, extra)
    name = type(model).__name__
    if grid is None:
        if _sees_one_patch(model, images, extra):
            raise ValueError(
                f"{name} sees the image as one patch, and none can be left out; give larger images, or hide pixels by "
                "a fill: removal='fill'"
            )
        raise ValueError(
            f"{name} keeps no grid of tokens through its depth, so no patches can be left out (it has convolutions, "
            "windows or several resolutions); hide them by a fill: removal='fill'"
        )
    with torch.inference_mode(False), torch.no_grad():
        extra = rows_of(tuple(extra), slice(0, 1), len(images))
        return _tested(model, grid, images[:1].detach().clone(), tuple(extra))


def _sees_one_patch(model: nn.Module, images: Tensor, extra: Sequence[Any]) -> bool:
    """Return whether a convolution makes one cell of the whole image, so that there is no grid of tokens.

    Raises:
        ValueError: the network does not run on the first image, e.g. because of its size or number of channels.
    """
    found: list[bool] = []

    def note(module: nn.Module, args: Any, output: Tensor) -> None:
        found.append(args[0].shape[2:] == images.shape[2:] and output.shape[2:] == (1, 1))

    copy, image = Replica(model).module, images[:1].detach()
    for module in copy.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(note)
    with torch.inference_mode(False), torch.no_grad(), refused_images(model, image):
        copy(*cloned([image, *rows_of(tuple(extra), slice(0, 1), len(images))]))
    return any(found)


def with_visibility(x: Tensor, visible: Tensor) -> Tensor:
    """Return images ``[N, C, H, W]`` with each of ``M`` masks ``[N, M, H, W]`` as a channel: ``[N, M, C + 1, H, W]``.

    Example::

        with_visibility(images, torch.ones(2, 1, 32, 32)).shape  # [2, 1, 4, 32, 32]
    """
    wide = x[:, None].expand(-1, visible.shape[1], -1, -1, -1)
    return torch.cat([wide, visible[:, :, None].to(x)], 2)


def _tested(model: nn.Module, grid: TokenGrid, x: Tensor, extra: tuple[Any, ...]) -> TokenDropping:
    channels = x.shape[1]
    generator = torch.Generator().manual_seed(0)
    order = permutation(grid.patches, generator)
    cells = torch.ones(grid.patches)
    cells[order[: max(1, grid.patches // 2)]] = 0
    shown = interpolate(cells.reshape(1, 1, grid.rows, grid.columns), x.shape[2:], mode="nearest").to(x)
    changed = (1 - shown) * _inside(grid, x)
    noise = x + x.std().clamp_min(1) * normal(x.shape, generator).to(x)
    other = torch.where(changed > 0, noise, x)

    soft = TokenDropping(grid, channels)
    copy: nn.Module = Replica(model).module
    plain = copy.forward
    soft.on(copy)

    def answers(run: Callable[..., Any], images: Tensor) -> Tensor:
        return select_logits(run(*cloned([images, *extra]))).double()

    masked = answers(copy, torch.cat([x, shown], 1))
    leak = (answers(copy, torch.cat([other, shown], 1)) - masked).abs().amax()
    free = answers(plain, x)
    change = (answers(plain, other) - free).abs().amax()
    if not bool(leak <= UNSEEN * change):
        seen = LeftOut(grid, shown.new_ones(1, grid.patches))
        with seen:
            plain(*cloned([x, *extra]))
        where = (
            f"its answer changes by {float(leak):.2g} with what hidden patches hold ({float(change):.2g} where nothing "
            "is hidden): tokens are mixed elsewhere than in attention over all of them, e.g. by convolutions, windows, "
            "a maximum or overlapping patches"
            if seen.attentions
            else "no softmax attention over its tokens was found"
        )
        raise ValueError(
            f"patches cannot be left out of {type(model).__name__}: {where}; hide them by a fill: removal='fill'"
        )
    cut = TokenDropping(grid, channels, shortens=True)
    if grid.entry is None:
        return soft
    copy = Replica(model).module
    cut.on(copy)
    try:
        apart = (answers(copy, torch.cat([x, shown], 1)) - masked).abs().amax()
    except Exception as error:  # e.g. a bias for each pair of places needs them all
        if hides_interrupt(error):
            raise
        return soft
    return cut if bool(apart <= UNSEEN * change) else soft


def _inside(grid: TokenGrid, x: Tensor) -> Tensor:
    """Return 1 where a pixel certainly belongs to its cell, ``[H, W]``."""
    inside = []
    for pixels, count in ((x.shape[2], grid.rows), (x.shape[3], grid.columns)):
        place = ((torch.arange(pixels) + 0.5) * count / pixels) % 1
        whole = pixels % count == 0
        inside.append(torch.ones(pixels) if whole else ((place - 0.5).abs() < INSIDE / 2).float())
    return (inside[0][:, None] * inside[1]).to(x)


def _can_be_cut(visible: Tensor) -> bool:
    """Return whether pixels are either shown or hidden, and equally many patches of each image are shown, not all."""
    shown = visible > 0.5
    counts = shown.sum(1)
    whole = bool(((visible == 0) | (visible == 1)).all())
    return whole and bool((counts == counts[0]).all()) and 0 < int(counts[0]) < visible.shape[1]


def _rows(output: Tensor, shown: Tensor, grid: TokenGrid) -> Tensor:
    """Return the sequence without hidden tokens, ``[N, K, C]``."""
    tokens = grid.of_tokens(shown.float(), output.shape[1])
    if tokens is None:
        raise RuntimeError(f"a sequence of {output.shape[1]} tokens is not on a grid of {grid.rows} x {grid.columns}")
    places = tokens.nonzero()[:, 1].reshape(len(output), -1)
    return output.gather(1, places[:, :, None].expand(-1, -1, output.shape[2]))
