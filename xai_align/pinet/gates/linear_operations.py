"""Operations that are linear (or affine) in all their tensors, and run unchanged."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from xai_align._tools.thread_state import hides_interrupt
from xai_align.pinet.gates.frozen_gates import FrozenGates
from xai_align.pinet.gates.rule_registry import linear, register_rule

SUMS = """
    add sub rsub sum mean nanmean cumsum nansum neg positive diff trace
    deg2rad rad2deg sum_to_size
"""
SHAPES = """
    view_as reshape reshape_as flatten unflatten squeeze unsqueeze permute transpose swapaxes swapdims movedim
    moveaxis t T mT H mH adjoint expand expand_as broadcast_to contiguous clone alias ravel tile repeat
    repeat_interleave narrow select select_copy slice slice_scatter select_scatter diagonal diag diag_embed unbind
    split split_with_sizes chunk tensor_split hsplit vsplit dsplit broadcast_tensors atleast_1d atleast_2d atleast_3d
    as_strided unfold meshgrid block_diag view_as_real view_as_complex real imag complex to_dense requires_grad_
    requires_grad.__set__ pin_memory cuda cpu channel_shuffle conj conj_physical
    resolve_conj resolve_neg rename rename_ refine_names align_to align_as diagflat diagonal_scatter
    narrow_copy combinations cartesian_prod linalg_diagonal alias_copy as_strided_copy
    diagonal_copy expand_copy permute_copy slice_copy split_copy split_with_sizes_copy squeeze_copy t_copy
    transpose_copy unbind_copy unfold_copy unsqueeze_copy view_as_complex_copy view_as_real_copy
    unsafe_chunk unsafe_split unsafe_split_with_sizes __reversed__
"""
PLACES = """
    cat concat concatenate stack hstack vstack dstack column_stack row_stack getitem setitem index_select gather take
    take_along_dim scatter_add index_add index_copy index_fill index_put masked_select masked_scatter
    masked_fill fill fill_diagonal copy zero roll flip fliplr flipud rot90 pad constant_pad_nd tril triu
    pixel_shuffle pixel_unshuffle fold col2im im2col put pad_sequence
    _pack_padded_sequence _pad_packed_sequence
"""
AVERAGES = """
    avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d interpolate upsample
    upsample_bilinear upsample_nearest _upsample affine_grid affine_grid_generator
"""
FOURIER = """
    fft_fft fft_ifft fft_fft2 fft_ifft2 fft_fftn fft_ifftn fft_rfft fft_irfft fft_rfft2 fft_irfft2 fft_rfftn fft_irfftn
    fft_fftshift fft_ifftshift fft_hfft fft_ihfft fft_hfft2 fft_ihfft2 fft_hfftn fft_ihfftn
"""
#: Properties of a tensor other than its values.
METADATA = """
    shape size dim ndim ndimension dtype device numel nelement element_size stride storage_offset is_contiguous layout
    grad grad_fn names is_cuda is_cpu is_mps is_xpu is_meta is_sparse is_quantized is_complex
    is_floating_point is_signed is_same_size is_inference is_nested itemsize nbytes data_ptr _version get_device
    __len__ output_nr storage_type has_names is_mkldnn is_ipu is_xla is_vulkan is_neg is_conj
    is_maia is_mtia is_sparse_csr is_coalesced is_distributed is_set_to sparse_dim dense_dim name volatile
    result_type is_tensor _is_view _base is_pinned is_shared dim_order
    __hash__ broadcast_shapes can_cast get_autocast_dtype is_autocast_enabled retains_grad
    _backward_hooks _cdata _grad _grad_fn _post_accumulate_grad_hooks grad_dtype const_data_ptr __dlpack_device__
    _assert _assert_tensor_metadata _assert_async record_stream
"""

for _names in (SUMS, SHAPES, PLACES, AVERAGES, FOURIER, METADATA):
    register_rule(*_names.split())(linear)


@register_rule("view", "_unsafe_view", "view_copy")
def view(gates: FrozenGates, func: Callable[..., Any], x: Tensor, *shape: Any, **kwargs: Any) -> Tensor:
    """Run ``view``, after making the tensor contiguous if a rule changed its memory layout."""
    try:
        return func(x, *shape, **kwargs)
    except RuntimeError as error:
        if hides_interrupt(error):
            raise
        return func(x.contiguous(), *shape, **kwargs)
