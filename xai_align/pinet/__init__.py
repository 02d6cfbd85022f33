"""PiNet: pseudo-linear networks, whose prediction is the sum of its attributions."""

from xai_align.pinet.aggregator import Aggregator
from xai_align.pinet.all_classes import ClassReadout, read_out_all_classes
from xai_align.pinet.coefficient_decoder import FeaturePyramid, PooledDecoder
from xai_align.pinet.conv_detector import ConvClassifier, ConvDecoder, ConvEncoder
from xai_align.pinet.conv_pinet import conv_pinet
from xai_align.pinet.ensemble import PiNetEnsemble
from xai_align.pinet.exact import ExactPiNet
from xai_align.pinet.frozen_encoder import FrozenEncoder
from xai_align.pinet.initialisation import Start
from xai_align.pinet.local_readout import LocalReadout
from xai_align.pinet.losses import PiNetLoss
from xai_align.pinet.method import PiNetMethod
from xai_align.pinet.mixture import MixedReadout
from xai_align.pinet.module import PiNet
from xai_align.pinet.passes import CompletenessError
from xai_align.pinet.places import Place
from xai_align.pinet.readout import read_out
from xai_align.pinet.records import Readout
from xai_align.pinet.rule_registry import UnknownOperation, register_rule
from xai_align.pinet.second_look import SecondLook
from xai_align.pinet.second_look_head import SecondLookHead
from xai_align.pinet.sharp_places import sharp_places

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
    "LocalReadout",
    "MixedReadout",
    "PiNet",
    "PiNetEnsemble",
    "PiNetLoss",
    "PiNetMethod",
    "Place",
    "PooledDecoder",
    "Readout",
    "SecondLook",
    "SecondLookHead",
    "Start",
    "UnknownOperation",
    "conv_pinet",
    "read_out",
    "read_out_all_classes",
    "register_rule",
    "sharp_places",
]
