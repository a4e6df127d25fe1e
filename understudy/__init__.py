"""Make a small vision model better by training it under a large one.

import understudy as us

run = us.distill("config.yaml", **{"train.epochs": 5})     # a whole job
distiller = us.Distiller(student, teacher, losses=[...])   # or one part of your own loop
loss = us.losses.dkd_loss(student_logits, teacher_logits, target)
"""

import lazy_loader

# The public surface is __init__.pyi. A name is imported when it is first used, so that `understudy --help` need not
# wait for torch, nor a training run for plots.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

__version__ = "0.1.0"
