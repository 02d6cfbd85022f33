"""Attribution methods that read the attention matrices of vision transformers, with Captum's call."""

from attention_align.attention_rollout import AttentionRollout
from attention_align.chefer import Chefer
from attention_align.legrad import LeGrad

__all__ = ["AttentionRollout", "Chefer", "LeGrad"]
