"""Tools for adapters and other packages that run methods on a user's model.

An adapter imports these and the public packages of the core, never :mod:`xai_align._tools`.
"""

from xai_align._tools.batches import batches_of
from xai_align._tools.callers_level import callers_level
from xai_align._tools.checks import check_not_empty
from xai_align._tools.did_you_mean import did_you_mean
from xai_align._tools.drawn import noise_like
from xai_align._tools.files import fields
from xai_align._tools.files.plain_json import in_one_clause
from xai_align._tools.files.tensor_file import check_weights, read_tensor_file
from xai_align._tools.files.weight_names import load_all_weights, named_as, tensor_called
from xai_align._tools.files.weights_file import read_weights_file
from xai_align._tools.full_precision import full_precision
from xai_align._tools.logits import select_logits
from xai_align._tools.model_state import check_evaluation_mode
from xai_align._tools.optional_package import optional_package
from xai_align._tools.other_globals import with_globals
from xai_align._tools.random_state import fixed_random_state, kept_random_state
from xai_align._tools.random_weights import RANDOM as RANDOM_WEIGHTS
from xai_align._tools.random_weights import random_note
from xai_align._tools.replica import Replica
from xai_align._tools.sum_keeping import Spread, resize_keeping_sum
from xai_align._tools.thread_state import restores_thread_state

__all__ = [
    "RANDOM_WEIGHTS",
    "Replica",
    "Spread",
    "batches_of",
    "callers_level",
    "check_evaluation_mode",
    "check_not_empty",
    "check_weights",
    "did_you_mean",
    "fields",
    "fixed_random_state",
    "full_precision",
    "in_one_clause",
    "kept_random_state",
    "load_all_weights",
    "named_as",
    "noise_like",
    "optional_package",
    "random_note",
    "read_tensor_file",
    "read_weights_file",
    "resize_keeping_sum",
    "restores_thread_state",
    "select_logits",
    "tensor_called",
    "with_globals",
]
