"""Make a small vision model better by training it under a large one.

import understudy as us

run = us.distill("config.yaml", **{"train.epochs": 5})     # a whole job
distiller = us.Distiller(student, teacher, losses=[...])   # or one part of your own loop
loss = us.losses.dkd_loss(student_logits, teacher_logits, target)
"""

from types import ModuleType

from understudy import analysis as analysis
from understudy import gradients as gradients
from understudy import listing as listing
from understudy import losses as losses
from understudy import metrics as metrics
from understudy import tables as tables
from understudy.analyses import ANALYSES as ANALYSES
from understudy.analyses.job import Analysed as Analysed
from understudy.analyses.job import analyze as analyze
from understudy.bench import bench as bench
from understudy.compare import compare as compare
from understudy.config import Config as Config
from understudy.config import load_config as load_config
from understudy.data import DATASETS as DATASETS
from understudy.demo import demo as demo
from understudy.doctor import doctor as doctor
from understudy.engine.backward import StepOutput as StepOutput
from understudy.engine.distiller import Distiller as Distiller
from understudy.engine.divergence import DivergedError as DivergedError
from understudy.engine.loop import InterruptedRunError as InterruptedRunError
from understudy.exports import Exported as Exported
from understudy.exports import export as export
from understudy.init import write_config as write_config
from understudy.interface import Batch as Batch
from understudy.interface import Network as Network
from understudy.interface import Outputs as Outputs
from understudy.interface import Search as Search
from understudy.interface import Setup as Setup
from understudy.methods import METHODS as METHODS
from understudy.methods import Method as Method
from understudy.methods.presets import PRESETS as PRESETS
from understudy.models import MODELS as MODELS
from understudy.models import create_model as create_model
from understudy.predict import Prediction as Prediction
from understudy.predict import predict as predict
from understudy.report import write_run_report as write_run_report
from understudy.report import write_study_report as write_study_report
from understudy.reproduce import Reproduction as Reproduction
from understudy.reproduce import reproduce as reproduce
from understudy.run import Run as Run
from understudy.run import distill as distill
from understudy.run import evaluate as evaluate
from understudy.run import resume as resume
from understudy.run import train as train
from understudy.study import Study as Study
from understudy.study import study as study
from understudy.taps import Taps as Taps
from understudy.taps import describe as describe
from understudy.tune import Tuned as Tuned
from understudy.tune import tune as tune

__version__ = "0.1.0.dev0"

_MODULES = {"analysis", "gradients", "listing", "losses", "metrics", "tables"}
"""The submodules that are meant to be used; of the others the package itself is made."""


def __dir__() -> list[str]:
    """Returns the public names, which are all that stands in the imports above."""
    names = (n for n, value in globals().items() if n in _MODULES or not isinstance(value, ModuleType))
    return sorted(n for n in names if n == "__version__" or not (n.startswith("_") or n == "ModuleType"))
