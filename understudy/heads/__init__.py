"""Trainable and stateful extras of the methods, as ordinary modules."""

from understudy.heads.auxiliary import auxiliary_head as auxiliary_head
from understudy.heads.connector import map_connector as map_connector
from understudy.heads.crd_memory import CRDMemory as CRDMemory
from understudy.heads.embedding import feature_embeddings as feature_embeddings
from understudy.heads.factor import Paraphraser as Paraphraser
from understudy.heads.factor import translator as translator
from understudy.heads.fusion import FusionBlock as FusionBlock
from understudy.heads.fusion import Review as Review
from understudy.heads.margin import MarginConnector as MarginConnector
from understudy.heads.means import ClassMeans as ClassMeans
from understudy.heads.means import mean_features as mean_features
from understudy.heads.projector import feature_projector as feature_projector
from understudy.heads.projector import student_projector as student_projector
from understudy.heads.regressor import hint_regressor as hint_regressor
from understudy.heads.shapes import map_shape as map_shape
from understudy.heads.snapshot import FeatureSnapshot as FeatureSnapshot
from understudy.heads.tokens import as_map as as_map
from understudy.heads.transplant import Transplant as Transplant
from understudy.heads.transplant import transplanted_head as transplanted_head
from understudy.heads.transplanted import Transplanted as Transplanted
from understudy.heads.transplanted import transplanted_model as transplanted_model
from understudy.heads.variational import VariationalRegressor as VariationalRegressor
