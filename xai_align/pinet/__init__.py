"""PiNet: pseudo-linear networks, whose prediction is the sum of its attributions."""

from xai_align.pinet.all_classes import ClassReadout, read_out_all_classes
from xai_align.pinet.completeness import CompletenessError
from xai_align.pinet.default_layers import default_layers
from xai_align.pinet.gates.rule_registry import UnknownOperation, register_rule
from xai_align.pinet.local_readout import LocalReadout
from xai_align.pinet.method import PiNetMethod
from xai_align.pinet.mixture import MixedReadout
from xai_align.pinet.network.aggregator import Aggregator
from xai_align.pinet.network.coefficient_decoder import FeaturePyramid, PooledDecoder
from xai_align.pinet.network.conv_detector import ConvClassifier, ConvDecoder, ConvEncoder
from xai_align.pinet.network.conv_pinet import conv_pinet
from xai_align.pinet.network.ensemble import PiNetEnsemble
from xai_align.pinet.network.exact import ExactPiNet
from xai_align.pinet.network.frozen_encoder import FrozenEncoder
from xai_align.pinet.network.head_options import HeadOptions
from xai_align.pinet.network.initialisation import Start
from xai_align.pinet.network.losses import PiNetLoss
from xai_align.pinet.network.module import PiNet
from xai_align.pinet.network.second_look import SecondLook
from xai_align.pinet.network.second_look_head import SecondLookHead
from xai_align.pinet.readout import read_out
from xai_align.pinet.readout_layers import ReadoutLayer
from xai_align.pinet.records import Readout

__all__ = [
    "Aggregator",
    "ClassReadout",
    "CompletenessError",
    "ConvClassifier",
    "ConvDecoder",
    "ConvEncoder",
    "ExactPiNet",
    "FeaturePyramid",
    "FrozenEncoder",
    "HeadOptions",
    "LocalReadout",
    "MixedReadout",
    "PiNet",
    "PiNetEnsemble",
    "PiNetLoss",
    "PiNetMethod",
    "PooledDecoder",
    "Readout",
    "ReadoutLayer",
    "SecondLook",
    "SecondLookHead",
    "Start",
    "UnknownOperation",
    "conv_pinet",
    "default_layers",
    "read_out",
    "read_out_all_classes",
    "register_rule",
]
