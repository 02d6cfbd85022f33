"""Attribution methods for vision transformers, with Captum's interface."""

from attention_align.attention_rollout import AttentionRollout
from attention_align.attn_lrp import AttnLRP
from attention_align.chefer import Chefer
from attention_align.legrad import LeGrad

__all__ = ["AttentionRollout", "AttnLRP", "Chefer", "LeGrad"]
