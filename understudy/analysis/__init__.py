"""The papers' analyses: pure functions on logits, features and weights."""

from understudy.analysis.bound import ijckd_bound as ijckd_bound
from understudy.analysis.collapse import neural_collapse as neural_collapse
from understudy.analysis.confidence import suggest_dkd_beta as suggest_dkd_beta
from understudy.analysis.confidence import target_gap as target_gap
from understudy.analysis.correlation import class_logit_difference as class_logit_difference
from understudy.analysis.correlation import correlation_difference as correlation_difference
from understudy.analysis.gradients import feature_gradient_terms as feature_gradient_terms
from understudy.analysis.gradients import head_gradient_terms as head_gradient_terms
from understudy.analysis.gradients import paper_obstacle as paper_obstacle
