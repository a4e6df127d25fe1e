"""Trainable and stateful extras of the methods, as ordinary modules."""

from understudy.heads.auxiliary import auxiliary_head as auxiliary_head
from understudy.heads.means import ClassMeans as ClassMeans
from understudy.heads.means import mean_features as mean_features
from understudy.heads.projector import feature_projector as feature_projector
