"""Metrics: pure functions on predictions (accuracy, calibration, fidelity) and on results over seeds."""

from understudy.metrics.accuracy import correct as correct
from understudy.metrics.agreement import mean_kl as mean_kl
from understudy.metrics.agreement import top1_agreement as top1_agreement
from understudy.metrics.boxes import average_precision as average_precision
from understudy.metrics.calibration import Reliability as Reliability
from understudy.metrics.calibration import brier_score as brier_score
from understudy.metrics.calibration import expected_calibration_error as expected_calibration_error
from understudy.metrics.calibration import negative_log_likelihood as negative_log_likelihood
from understudy.metrics.calibration import reliability_table as reliability_table
from understudy.metrics.compare import Difference as Difference
from understudy.metrics.compare import Summary as Summary
from understudy.metrics.compare import difference as difference
from understudy.metrics.compare import paired_difference as paired_difference
from understudy.metrics.compare import summarise as summarise
from understudy.metrics.compare import unpaired_difference as unpaired_difference
from understudy.metrics.compare import verdict as verdict
from understudy.metrics.confusion import confusion_matrix as confusion_matrix
from understudy.metrics.overview import likeness as likeness
from understudy.metrics.overview import quality as quality
from understudy.metrics.per_class import per_class_accuracy as per_class_accuracy
from understudy.metrics.segmentation import class_iou as class_iou
from understudy.metrics.segmentation import mean_iou as mean_iou
from understudy.metrics.segmentation import pixel_accuracy as pixel_accuracy
from understudy.metrics.segmentation import pixel_confusion as pixel_confusion
