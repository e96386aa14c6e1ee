"""How the device computes: precision, layout, determinism, compilation; and what it cannot do, said before the first step."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from ffr_dist.errors import ConfigError, FFRError, StoppedError
from ffr_dist.train.config import FitConfig
from ffr_dist.train.task import Task
from ffr_dist.train.world import World

_log = logging.getLogger(__name__)
_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
_COMPILERS = ("g++", "clang++", "c++")


def refuse_unfit(task: Task, config: FitConfig, device: torch.device) -> None:
    """ConfigError for what the task or the device cannot do."""
    if task.weights is not None and config.accumulation > 1:
        raise ConfigError(
            f"task {task.name}: weights that follow the loss (GroupDRO) need the whole batch at once; "
            "set accumulation to 1 or lower the batch size"
        )
    if config.precision == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise ConfigError("precision bf16 is not known to this GPU; set precision to fp16 or no")
    if config.compile and device.type == "cpu" and not _compiler():
        raise ConfigError(
            "compile needs a C++ compiler where there is no GPU, and there is none: install g++, name one in CXX, "
            "or set compile to false"
        )


def placed(task: Task, config: FitConfig, world: World) -> nn.Module:
    """The task's model on its device, as the module to train: wrapped for several processes, compiled."""
    model = task.model.to(world.device)
    if config.channels_last:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    module: nn.Module = model
    if world.size > 1:
        _share_statistics(task, world)
        # torch's own: Accelerate's preparation would leave a changed forward behind in the task's model.
        places = [world.device.index] if world.device.type == "cuda" else None
        module = DistributedDataParallel(model, device_ids=places)
    if config.compile:
        # A batch has two sizes, that of all and that of an epoch's last: one fast graph for each.
        compiled: nn.Module = torch.compile(module, dynamic=False)  # type: ignore[assignment]
        return compiled
    return module


class Feed:
    """Brings batches to the device; to a GPU on a stream of its own, so that the copy runs beside the step before."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._copying = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]
        self._used: torch.cuda.Event | None = None
        self._held: list[Any] = []

    def put(self, batches: Sequence[Any]) -> list[Any]:
        """The batches of a step, after those of the step before were put to use."""
        if self._copying is None:
            return [batch.to(self._device) for batch in batches]
        main = torch.cuda.current_stream(self._device)
        # Memory that is free here is that of the step before the last: the last one's is still held. The copy may begin
        # as soon as that step is over on the GPU, which this event tells.
        if self._used is not None:
            self._copying.wait_event(self._used)
        self._used = main.record_event()
        with torch.cuda.stream(self._copying):
            there = [batch.to(self._device) for batch in batches]
        main.wait_stream(self._copying)
        self._held = there
        return there


def train_mode(task: Task) -> None:
    task.model.train()
    for module in task.frozen:
        module.eval()


def autocast(config: FitConfig, device: torch.device) -> AbstractContextManager[object]:
    dtype = _DTYPES.get(config.precision)
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype)


@contextmanager
def modes(config: FitConfig) -> Iterator[None]:
    """Within, torch computes as ``config`` asks; afterwards as before."""
    strict = torch.are_deterministic_algorithms_enabled()
    cudnn = torch.backends.cudnn
    before = cudnn.benchmark, cudnn.deterministic
    if config.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    _only_deterministic(strict or config.deterministic)
    cudnn.benchmark, cudnn.deterministic = not config.deterministic, config.deterministic
    try:
        yield
    finally:
        _only_deterministic(strict)
        cudnn.benchmark, cudnn.deterministic = before


def _only_deterministic(wanted: bool) -> None:
    if wanted != torch.are_deterministic_algorithms_enabled():  # even to say no imports torch's compiler: seconds
        torch.use_deterministic_algorithms(wanted)


@contextmanager
def explained(task: Task, config: FitConfig, world: World) -> Iterator[None]:
    """Errors of torch that are not bugs, in our words."""
    try:
        yield
    except FFRError:
        raise
    except Exception as error:
        meant = _meant(task, config, world, error)
        if meant is None:
            raise
        raise meant from error


def _meant(task: Task, config: FitConfig, world: World, error: Exception) -> FFRError | None:
    first = (str(error).strip().splitlines() or [type(error).__name__])[0]
    # A backend tells by a bare RuntimeError that names its own source, or by an error of torch.distributed.
    lost = isinstance(error, torch.distributed.DistError) or (isinstance(error, RuntimeError) and "gloo" in first)
    if world.size > 1 and lost:
        return StoppedError(
            f"{task.name}: process {world.rank} of {world.size} lost another one, which ended or did not answer ({first}); "
            "the same command goes on from the last checkpoint"
        )
    if config.deterministic and "does not have a deterministic implementation" in first:
        return ConfigError(f"{task.name}: {first.partition(', but')[0]}; set deterministic to false")
    if config.precision == "fp16" and "not implemented for 'Half'" in first:
        return ConfigError(
            f"{task.name}: the model has an operation without fp16 ({first}); set precision to bf16 or no"
        )
    if config.compile and type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
        return ConfigError(f"{task.name}: torch cannot compile the model here ({first}); set compile to false")
    return None


def _compiler() -> bool:
    return any(shutil.which(name) for name in (os.environ.get("CXX"), *_COMPILERS) if name)


def _share_statistics(task: Task, world: World) -> None:
    """Let statistics of batches be those of the global batch, or say that they are not."""
    still = {id(module) for top in task.frozen for module in top.modules()}
    local = [
        name
        for name, module in task.model.named_modules()
        if isinstance(module, _BatchNorm) and not isinstance(module, nn.SyncBatchNorm) and id(module) not in still
    ]
    if not local:
        return
    if world.device.type != "cuda":
        if world.is_main:
            _log.warning(
                "%s: BatchNorm (%d layers) takes the statistics of each process's own part of a batch, as torch can share "
                "them on GPUs only: the result depends on the number of processes",
                task.name,
                len(local),
            )
        return
    for name in local:
        parent, _, child = name.rpartition(".")
        owner = task.model.get_submodule(parent)
        shared = nn.SyncBatchNorm.convert_sync_batchnorm(owner.get_submodule(child))  # type: ignore[no-untyped-call]
        setattr(owner, child, shared)
