"""Sample calls of PyTorch's operations: those of its own database, and others written by hand."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import closing, nullcontext
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import get_ignored_functions, get_overridable_functions, resolve_name
from torch.utils._pytree import tree_leaves

Function = Callable[..., Any]
FLOW = (torch.float64, torch.complex128)
VARIANTS = ("op", "method_variant", "inplace_variant", "operator_variant", "inplace_operator_variant")


@dataclass(frozen=True)
class Sample:
    """Arguments of one call; every float64 and complex128 tensor in them may depend on the feature space."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any] = field(default_factory=dict)

    def __iter__(self) -> Iterator[Any]:
        return iter((self.args, self.kwargs))

    def places(self) -> list[int]:
        """Which leaves may depend on the feature space."""
        return [n for n, leaf in enumerate(tree_leaves(tuple(self))) if _flows(leaf)]


def sample(*args: Any, **kwargs: Any) -> Sample:
    return Sample(args, kwargs)


def _flows(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.dtype in FLOW and leaf.layout == torch.strided and not leaf.is_nested


SEEN_BY_MODES = """
    arange as_strided as_tensor asarray eye full fill from_numpy linspace logspace normal range scalar_tensor tensor
    vander rand_like randn_like randint_like result_type can_cast
"""
METHODS_SEEN_BY_MODES = """
    new new_empty new_empty_strided new_full new_ones new_tensor new_zeros stride to_padded_tensor unflatten
    to_sparse_coo to_sparse_csr to_sparse_csc to_sparse_bsr to_sparse_bsc _conj _neg_view _addmm_activation
    as_subclass _lazy_clone
"""


def interceptable_functions() -> list[Function]:
    """Every function, method, operator and property that a mode of this version of PyTorch can intercept."""
    found = {func: None for functions in get_overridable_functions().values() for func in functions}
    ignored = get_ignored_functions()
    for home, names in ((torch, SEEN_BY_MODES), (Tensor, METHODS_SEEN_BY_MODES)):
        for name in names.split():
            func = getattr(home, name, None)
            if func is not None and func in ignored:
                found[func] = None
    return list(found)


# ---------------------------------------------------------------- PyTorch's own samples


@cache
def op_db() -> list[Any]:
    """PyTorch's database of operations, which its own tests are generated from."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torch.testing._internal.common_methods_invocations import op_db as found
    return list(found)


def samples_of(op: Any, count: int) -> list[Sample]:
    """Up to ``count`` small samples of an entry of :func:`op_db`, spread over all that it has."""
    torch.manual_seed(0)
    dtype = torch.float64 if torch.float64 in op.dtypes else None
    found: list[Sample] = []
    if dtype is None:
        return found
    given = op.sample_inputs_func(op, "cpu", dtype, False)
    with warnings.catch_warnings(), closing(given) if hasattr(given, "close") else nullcontext():
        warnings.simplefilter("ignore")
        for one in given:
            call = Sample((one.input, *one.args), dict(one.kwargs))
            tensors = [leaf for leaf in tree_leaves(tuple(call)) if isinstance(leaf, Tensor)]
            if 0 < sum(tensor.numel() for tensor in tensors) <= 2000 and not any(_has_nan(leaf) for leaf in tensors):
                found.append(call)
            if len(found) == 4 * count:
                break
    return found[:: max(len(found) // count, 1)][:count]


def _has_nan(x: Tensor) -> bool:
    return (x.is_floating_point() or x.is_complex()) and x.layout == torch.strided and bool(x.isnan().any())


@cache
def samples_by_function(count: int = 2) -> dict[Function, list[Sample]]:
    """Samples of every function, method and operator that there are some for: PyTorch's and those written here."""
    known = set(interceptable_functions())
    found: dict[Function, list[Sample]] = {}
    for op in op_db():
        spellings = [getattr(spelled, variant, None) for spelled in (op, *op.aliases) for variant in VARIANTS]
        functions = {func for func in spellings if func is not None and func in known}
        calls = samples_of(op, count) if functions else []
        for func in functions:
            found.setdefault(func, []).extend(calls)
    for func, written in handwritten().items():
        found.setdefault(func, []).extend(written)
    return found


def name_of(func: Function) -> str:
    """A name for a test's id."""
    return resolve_name(func) or str(func)


# ---------------------------------------------------------------- samples that the database lacks


def numbers(*shape: int, seed: int = 0) -> Tensor:
    """Fixed float64 numbers, a few of them between each two whole ones."""
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@cache
def handwritten() -> dict[Function, list[Sample]]:
    """Samples of what PyTorch's database has none of: operators, properties, methods, recurrent networks ..."""
    x, y, z = numbers(3, 4), numbers(3, 4, seed=1), numbers(3, 4, seed=2)
    images, volume, row = numbers(2, 4, 6, 6), numbers(2, 2, 4, 4, 4), numbers(2, 4, 6)
    scalar, index = numbers(), torch.tensor([0, 2])
    complexes = torch.view_as_complex(numbers(3, 4, 2))
    found: dict[Function, list[Sample]] = {}

    def add(home: Any, names: str, *calls: Sample) -> None:
        for name in names.split():
            func = getattr(home, name, None)
            if func is not None:  # another version of PyTorch
                found[func] = [*found.get(func, []), *calls]

    # operators
    two = "__add__ __sub__ __mul__ __truediv__ __div__ __pow__ __mod__ __floordiv__ __rfloordiv__"
    add(Tensor, two, sample(x.abs() + 0.1, y.abs() + 0.1), sample(x.abs() + 0.1, 2.5))
    written = "__iadd__ __isub__ __imul__ __itruediv__ __ipow__ __imod__ __ifloordiv__ __idiv__"
    add(Tensor, written, sample(x.abs(), y.abs() + 1), sample(x.abs(), 1.5))
    add(Tensor, "__matmul__", sample(x, y.mT))
    add(Tensor, "__eq__ __ne__ __lt__ __le__ __gt__ __ge__", sample(x, y), sample(x, 0.5))
    numbers_of_python = "__bool__ __nonzero__ __int__ __long__ is_nonzero __float__ __complex__"
    add(Tensor, numbers_of_python, sample(scalar))
    found[Tensor.__contains__] = [sample(x, 0.3)]
    add(torch, "is_nonzero", sample(scalar))
    add(Tensor, "__setitem__", sample(x, (slice(None), 0), y[:, 0]), sample(x, x > 0, 0.5), sample(x, 1, 2.0))
    add(Tensor, "__len__ __repr__ __reversed__ __format__ __hash__", sample(x))
    found[Tensor.__format__] = [sample(x, "")]
    # properties and methods without arguments
    properties = """
        H T mH mT real _backward_hooks _base _cdata _grad _grad_fn _post_accumulate_grad_hooks _version device dtype
        grad grad_fn is_cpu is_cuda is_ipu is_leaf is_maia is_meta is_mkldnn is_mps is_mtia is_nested is_quantized
        is_sparse is_sparse_csr is_vulkan is_xla is_xpu itemsize layout name nbytes ndim output_nr requires_grad
        retains_grad shape volatile data names
    """
    for name in properties.split():
        getter = getattr(getattr(Tensor, name, None), "__get__", None)
        if getter is not None:
            found[getter] = [sample(x)]
    found[Tensor.imag.__get__] = [sample(complexes)]
    methods = """
        __dlpack_device__ _is_view const_data_ptr cpu data_ptr dense_dim dim dim_order element_size get_device
        is_complex is_conj is_contiguous is_distributed is_floating_point is_inference is_neg is_pinned
        is_shared is_signed ndimension nelement numel requires_grad_ size stride sparse_dim storage_offset
        storage_type to_dense untyped_storage detach detach_ tolist __array__ numpy detach_copy contiguous type rename
        has_names
    """
    add(Tensor, methods, sample(x))
    add(Tensor, "item", sample(scalar))
    questions = "get_device is_complex is_conj is_distributed is_floating_point is_inference is_neg is_signed numel"
    add(torch, questions, sample(x))
    add(torch, "detach detach_copy tensor as_tensor asarray", sample(x))
    add(torch, "rand_like randn_like zeros_like ones_like", sample(x))
    add(torch, "as_tensor asarray tensor", sample([scalar, scalar]))
    add(torch, "randint_like", sample(x, 3))
    add(torch, "is_same_size result_type", sample(x, y))
    add(Tensor, "is_same_size is_set_to", sample(x, y))
    add(Tensor, "new_tensor", sample(x, y))
    add(Tensor, "new_zeros new_ones", sample(x, (2, 2)))
    add(Tensor, "new_full", sample(x, (2, 2), 1.5))
    add(Tensor, "copy_ type_as", sample(x, y))
    add(Tensor, "fill_diagonal_", sample(x, 2.0))
    add(Tensor, "type", sample(x, torch.float64))
    add(Tensor, "multinomial", sample(x.abs(), 2))
    add(torch, "multinomial", sample(x.abs(), 2))
    add(torch, "linspace", sample(scalar, scalar + 1, 3))
    add(torch, "unsafe_split_with_sizes split_with_sizes_copy", sample(x, [1, 3], 1))
    add(Tensor, "unsafe_split_with_sizes", sample(x, [1, 3], 1))
    add(torch, "split_copy", sample(x, 2, 1))
    add(torch, "select_copy", sample(x, 1, 2))
    add(torch, "slice_copy", sample(x, 1, 1, 3))
    add(torch, "view_as_real_copy", sample(complexes))
    add(torch, "view_as_real imag", sample(complexes))
    add(torch, "slice_scatter", sample(x, y[:, :2], 1, 1, 3))
    add(Tensor, "slice_scatter", sample(x, y[:, :2], 1, 1, 3))
    add(Tensor, "__rpow__", sample(x, 2.5))
    add(Tensor, "acosh_ arccosh_", sample(x.abs() + 1.5))
    add(Tensor, "atanh_ arctanh_", sample(x.tanh()))
    add(Tensor, "asinh_ arcsinh_", sample(x))
    add(torch, "unique unique_consecutive histogram", sample(x))
    # functions of networks
    add(torch, "embedding", sample(x, index))
    add(F, "embedding", sample(index, x))
    add(F, "affine_grid", sample(numbers(2, 2, 3), [2, 1, 3, 3], align_corners=False))
    add(torch, "affine_grid_generator", sample(numbers(2, 2, 3), [2, 1, 3, 3], False))
    add(torch, "grid_sampler", sample(images, numbers(2, 3, 3, 2).tanh(), 0, 0, False))
    add(F, "fold", sample(numbers(2, 8, 9), (4, 4), 2))
    add(F, "native_channel_shuffle", sample(images, 2))
    add(torch, "relu relu_ celu celu_ selu selu_", sample(x), sample(-x))
    add(F, "relu_ elu_ selu_ celu_ leaky_relu_ hardtanh_", sample(x))
    add(Tensor, "relu relu_ hardshrink", sample(x))
    add(Tensor, "prelu", sample(images, numbers(4)))
    add(torch, "threshold threshold_", sample(x, 0.2, 1.5))
    add(torch, "rrelu rrelu_", sample(x, 0.1, 0.3, False))
    add(F, "rrelu", sample(x, 0.1, 0.3, False))
    add(torch, "where", sample(x > 0, y, z), sample(x))
    add(Tensor, "where", sample(x, y > 0, z))
    off = "dropout alpha_dropout feature_dropout feature_alpha_dropout dropout2d"
    for home in (torch, F):
        add(home, f"{off} {'_ '.join(off.split())}_", sample(images, 0.5, False))
    add(F, "dropout1d", sample(row, 0.5, False))
    add(F, "dropout3d", sample(volume, 0.5, False))
    add(torch, "native_dropout", sample(x, 0.5, False))
    scale, offset, mean, variance = numbers(4), numbers(4, seed=1), numbers(4).float().double(), numbers(4).abs() + 1
    found[torch.batch_norm] = [sample(images, scale, offset, mean, variance, False, 0.1, 1e-5, False)]
    add(torch, "instance_norm", sample(images, numbers(4), numbers(4, seed=1), None, None, True, 0.1, 1e-5, False))
    add(torch, "convolution", sample(images, numbers(2, 4, 3, 3), numbers(2), [1, 1], [0, 0], [1, 1], False, [0, 0], 1))
    add(torch, "conv_tbc", sample(numbers(5, 2, 3), numbers(2, 3, 4), numbers(4), 1))
    add(F, "conv_tbc", sample(numbers(5, 2, 3), numbers(2, 3, 4), numbers(4), 1))
    add(torch, "chain_matmul", sample(x, y.mT, z))
    add(torch.functional, "chain_matmul", sample(x, y.mT, z))
    add(torch.functional, "einsum", sample("ij,kj->ik", x, y), sample("ij,ij,ij->i", x, y, z))
    add(torch, "frobenius_norm", sample(x, [1]))
    for dims, value in ((1, row), (2, images), (3, volume)):
        add(torch, f"max_pool{dims}d max_pool{dims}d_with_indices", sample(value, 2))
        add(F, f"max_pool{dims}d_with_indices lp_pool{dims}d", sample(value, 2, 2))
        add(F, f"adaptive_max_pool{dims}d_with_indices", sample(value, 2))
        add(torch, f"adaptive_max_pool{dims}d", sample(value, 2))
    query, mask = numbers(2, 2, 3, 4), torch.ones(3, 3, dtype=torch.bool).tril()
    key, value = numbers(2, 2, 3, 4, seed=1), numbers(2, 2, 3, 4, seed=2)
    causal = sample(query, key, value, is_causal=True, scale=0.3)
    add(F, "scaled_dot_product_attention", sample(query, key, value), causal, sample(query, key, value, mask))

    # recurrent networks
    def weights(gates: int) -> list[Tensor]:
        matrices = [numbers(gates * 4, 3, seed=3), numbers(gates * 4, 4, seed=4)]
        return [*matrices, numbers(gates * 4), numbers(gates * 4, seed=5)]

    sequence, state = numbers(5, 2, 3), numbers(1, 2, 4)
    flags = (True, 1, 0.0, False, False, False)
    add(torch, "lstm", sample(sequence, [state, state], weights(4), *flags))
    add(torch, "gru", sample(sequence, state, weights(3), *flags))
    add(torch, "rnn_tanh rnn_relu", sample(sequence, state, weights(1), *flags))
    add(torch, "lstm_cell", sample(sequence[0], [state[0], state[0]], *weights(4)))
    add(torch, "gru_cell", sample(sequence[0], state[0], *weights(3)))
    add(torch, "rnn_tanh_cell rnn_relu_cell", sample(sequence[0], state[0], *weights(1)))
    attention = (numbers(12, 4), numbers(12), None, None, False, 0.0, numbers(4, 4), numbers(4))
    tokens = numbers(3, 2, 4)
    add(F, "multi_head_attention_forward", sample(tokens, tokens, tokens, 4, 2, *attention, training=False))
    return found
