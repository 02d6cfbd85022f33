"""EPIC: channels of a layer, mixed so that each responds to one kind of part, and their shares in the answer."""

from xai_align.prototypes.fit import fit_prototypes
from xai_align.prototypes.method import EPICMethod
from xai_align.prototypes.mixed_network import MixedNetwork
from xai_align.prototypes.options import PrototypeOptions
from xai_align.prototypes.prototype_file import load_prototypes, save_prototypes
from xai_align.prototypes.purity import channel_purity
from xai_align.prototypes.record import Prototype, Prototypes
from xai_align.prototypes.shares import ChannelShares, channel_shares

__all__ = [
    "ChannelShares",
    "EPICMethod",
    "MixedNetwork",
    "Prototype",
    "PrototypeOptions",
    "Prototypes",
    "channel_purity",
    "channel_shares",
    "fit_prototypes",
    "load_prototypes",
    "save_prototypes",
]
