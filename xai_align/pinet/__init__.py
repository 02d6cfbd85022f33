"""PiNet: pseudo-linear networks, whose prediction is the sum of its attributions."""

from xai_align.pinet.accounts import CompletenessError
from xai_align.pinet.all_classes import ClassReadout, read_out_all_classes
from xai_align.pinet.local_readout import LocalReadout
from xai_align.pinet.module import PiNet
from xai_align.pinet.readout import Readout, read_out, where_to_read
from xai_align.pinet.rule_registry import UnknownOperation, register_rule

__all__ = [
    "ClassReadout",
    "CompletenessError",
    "LocalReadout",
    "PiNet",
    "Readout",
    "UnknownOperation",
    "read_out",
    "read_out_all_classes",
    "register_rule",
    "where_to_read",
]
