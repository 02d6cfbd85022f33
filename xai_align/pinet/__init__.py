"""PiNet: pseudo-linear networks, whose prediction is the sum of its attributions."""

from xai_align.pinet.accounts import CompletenessError
from xai_align.pinet.readout import Readout, read_out, where_to_read
from xai_align.pinet.rule_registry import UnknownOperation, register_rule

__all__ = ["CompletenessError", "Readout", "UnknownOperation", "read_out", "register_rule", "where_to_read"]
