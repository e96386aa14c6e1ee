"""Training: ``fit(Task)`` on Accelerate, and the tasks that learn classifiers. The only room with ``accelerate``."""

from ffr_dist.train.checkpoint import Checkpoint, Checkpoints
from ffr_dist.train.classify import classification_task
from ffr_dist.train.config import FitConfig
from ffr_dist.train.fit import FitResult, fit
from ffr_dist.train.optimizers import learning_rate
from ffr_dist.train.progress import Progress
from ffr_dist.train.task import Batches, Score, Task

__all__ = [
    "Batches",
    "Checkpoint",
    "Checkpoints",
    "FitConfig",
    "FitResult",
    "Progress",
    "Score",
    "Task",
    "classification_task",
    "fit",
    "learning_rate",
]
