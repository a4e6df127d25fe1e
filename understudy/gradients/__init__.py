"""Gradients: pure functions on lists of gradients (docs/methods.md, Gradient alignment)."""

from understudy.gradients.align import Gradients as Gradients
from understudy.gradients.align import Role as Role
from understudy.gradients.align import align_features as align_features
from understudy.gradients.align import align_gradients as align_gradients
from understudy.gradients.align import coefficient as coefficient
from understudy.gradients.align import merge as merge
from understudy.gradients.conflict import conflict as conflict
