"""Logits, feature and stages of any network, read by hooks: the network itself is never edited."""

from understudy.taps.detector import ask
from understudy.taps.find import DescribedNetwork, describe
from understudy.taps.hooks import Taps, without_hooks
from understudy.taps.norms import norm_before
from understudy.taps.pairs import pair_stages

__all__ = ["DescribedNetwork", "Taps", "ask", "describe", "norm_before", "pair_stages", "without_hooks"]
