"""Short, seeded training of a whole graph: with labels, or without any and the original as teacher.

What is minimised is a function of the outputs and the batch, so tasks of other kinds (boxes, masks) bring their own:
:func:`cross_entropy` and :func:`distillation` are the two that most need. Batch normalisation keeps its statistics.

One thread unless said otherwise, and one generator for everything that is drawn: the same seed gives the same weights
in any process.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from graphopt.errors import ConfigError, ModelError, did_you_mean
from graphopt.ir.graph import Graph
from graphopt.ir.op import Array
from graphopt.train.memory import kept_memory
from graphopt.train.runner import Runner

Tensors = Mapping[str, Tensor]

Progress = Callable[[int, int, float], None]
"""Called after each step with (done, all, the step's loss)."""

WARM_UP = 0.1
"""Share of the steps in which the learning rate rises to its full value."""

_ROW_SUM_TOLERANCE = 1e-2


class Loss(Protocol):
    """What is minimised."""

    def __call__(self, outputs: Tensors, batch: Tensors) -> Tensor:
        """Return one number for a batch: the model's outputs by name, and everything in the data by name."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to train.

    Attributes:
        epochs: passes over the data; a part of one is fine.
        steps: number of batches instead, where it is given.
        batch: samples of a batch; the samples that do not fill the last one of a pass are left out of it.
        optimizer: ``adam``, or ``sgd`` with Nesterov momentum 0.9.
        learning_rate: the highest; it rises to it over the first steps and falls to zero along a cosine.
        weight_decay: decoupled for ``adam`` (AdamW, arXiv:1711.05101).
        clip_norm: largest norm of the gradient of all weights together.
        seed: of the order of the samples.
        threads: of PyTorch. Other numbers give other roundings.
    """

    epochs: float = 1.0
    steps: int | None = None
    batch: int = 64
    optimizer: Literal["adam", "sgd"] = "adam"
    learning_rate: float = 5e-4
    weight_decay: float = 0.0
    clip_norm: float = 1.0
    seed: int = 0
    threads: int = 1


@dataclass(frozen=True, slots=True)
class Finetuned:
    """A trained graph.

    Attributes:
        graph: as the one that was given, with new weights.
        history: the loss of each step, before the step.
    """

    graph: Graph
    history: tuple[float, ...]


def finetune(
    graph: Graph, data: Mapping[str, Array], loss: Loss, recipe: Recipe | None = None, progress: Progress | None = None
) -> Finetuned:
    """Train every weight of a graph.

    Args:
        graph: the model; its batch must be open, or the recipe's.
        data: the model's inputs by name, and what else the loss wants (labels, say); samples along the first axis.
        loss: what to minimise.
        recipe: how; the defaults suit a repaired model.
        progress: told after each step.

    Raises:
        ModelError: when an op has no gradient here, there is nothing to train, the model does not take such a batch,
            or the loss stops being a number.
        ConfigError: when the data lacks an input or does not fill a batch, or the recipe asks for no step.
    """
    recipe = recipe or Recipe()
    count = _samples(graph, data)
    if count < recipe.batch:
        raise ConfigError(f"{count} samples do not fill a batch of {recipe.batch}: a smaller batch would do")
    steps = recipe.steps if recipe.steps is not None else round(recipe.epochs * (count // recipe.batch))
    if steps < 1:
        raise ConfigError("the recipe asks for no step: at least one batch is needed")
    runner = Runner(graph)
    parameters = runner.parameters()
    if not parameters:
        raise ModelError("there is nothing to train: no op of the model has weights that follow a gradient")
    for parameter in parameters:
        parameter.data = _channels_last(parameter.data)
    optimizer = _optimizer(parameters, recipe)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate_at(step, steps))
    history = []
    with _threads(recipe.threads), kept_memory():
        for step, chosen in zip(range(steps), _orders(count, recipe), strict=False):
            batch = {name: _channels_last(torch.from_numpy(values[chosen])) for name, values in data.items()}
            value = loss(_outputs(runner, batch, recipe.batch), batch)
            history.append(float(value.detach()))
            if not math.isfinite(history[-1]):
                raise ModelError(f"the loss is {history[-1]} at step {step + 1}: a smaller learning rate would do")
            optimizer.zero_grad()
            value.backward()
            torch.nn.utils.clip_grad_norm_(parameters, recipe.clip_norm)
            optimizer.step()
            schedule.step()
            if progress is not None:
                progress(step + 1, steps, history[-1])
    return Finetuned(runner.trained(), tuple(history))


def learning_rate_at(step: int, steps: int) -> float:
    """Share of the full learning rate at ``step`` of ``steps``: a linear rise, then half a cosine."""
    rise = max(1, round(WARM_UP * steps))
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1.0 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))


def cross_entropy(labels: str = "label", output: str | None = None) -> Loss:
    """Return the cross entropy of class scores and labels.

    Args:
        labels: name of the labels in the data: whole numbers, (samples,) or (samples, height, width) for masks.
        output: name of the scores, classes along axis 1; the first output where it is ``None``. Scores that already
            are probabilities are taken as such.
    """

    def loss(outputs: Tensors, batch: Tensors) -> Tensor:
        if labels not in batch:
            raise ConfigError(f"the data lacks {labels!r}{did_you_mean(labels, batch)}")
        scores = next(iter(outputs.values())) if output is None else outputs[output]
        classes = batch[labels].long()
        if classes.min() < 0 or classes.max() >= scores.shape[1]:
            raise ConfigError(f"the model knows classes 0 to {scores.shape[1] - 1}, and {labels!r} holds others")
        return F.nll_loss(_log_probabilities(scores), classes)

    return loss


def summed(*losses: Loss) -> Loss:
    """Return the sum of some losses."""
    return lambda outputs, batch: sum((loss(outputs, batch) for loss in losses), torch.zeros(()))


def mean_loss(graph: Graph, batches: Iterable[Mapping[str, Array]], loss: Loss) -> float:
    """Return the loss of a graph as it is, averaged over samples; arguments as :func:`finetune`."""
    runner = Runner(graph)
    total, count = 0.0, 0
    with torch.no_grad():
        for arrays in batches:
            batch = {name: torch.from_numpy(values) for name, values in arrays.items()}
            size = len(next(iter(batch.values())))
            total += size * float(loss(_outputs(runner, batch, size), batch))
            count += size
    return total / count


def distillation(teacher: Graph, temperature: float = 2.0, only: Sequence[str] | None = None) -> Loss:
    """Return the distance from what ``teacher`` computes, summed over the outputs (``only`` some); no labels.

    Class scores (rank 2) are compared by KL divergence at a temperature (arXiv:1503.02531), probabilities by plain KL
    divergence, other outputs by the squared relative L2 distance: the measures that drift is told in.
    """
    runner = Runner(teacher, outputs=only)

    def loss(outputs: Tensors, batch: Tensors) -> Tensor:
        with torch.no_grad():
            wanted = runner(batch)
        return sum((_distance(wanted[name], outputs[name], temperature) for name in wanted), torch.zeros(()))

    return loss


def _distance(wanted: Tensor, found: Tensor, temperature: float) -> Tensor:
    if wanted.dim() != 2 or wanted.shape[1] < 2:
        return (found - wanted).square().sum() / wanted.square().sum().clamp_min(1e-12)
    if _are_probabilities(wanted):
        return F.kl_div(_log(found), _log(wanted), reduction="batchmean", log_target=True)
    p, q = (F.log_softmax(scores / temperature, dim=1) for scores in (wanted, found))
    return F.kl_div(q, p, reduction="batchmean", log_target=True) * temperature**2


def _log_probabilities(scores: Tensor) -> Tensor:
    return _log(scores) if _are_probabilities(scores) else F.log_softmax(scores, dim=1)


def _are_probabilities(scores: Tensor) -> bool:
    sums = scores.detach().sum(dim=1)
    return bool((scores >= 0).all() and ((sums - 1).abs() <= _ROW_SUM_TOLERANCE).all())


def _log(probabilities: Tensor) -> Tensor:
    return probabilities.clamp_min(1e-12).log()


def _outputs(runner: Runner, batch: Tensors, size: int) -> Tensors:
    try:
        return runner(batch)
    except RuntimeError as error:
        why = " ".join(str(error).split())
        raise ModelError(f"gradients: the model does not run on a batch of {size}: {why}") from error


def _samples(graph: Graph, data: Mapping[str, Array]) -> int:
    """Number of samples."""
    missing = [name for name in graph.inputs if name not in data]
    if missing:
        raise ConfigError(f"the data lacks the input {missing[0]!r}{did_you_mean(missing[0], data)}")
    counts = {name: len(values) for name, values in data.items()}
    if len(set(counts.values())) != 1:
        raise ConfigError(f"arrays of different length: {', '.join(f'{n} {c}' for n, c in counts.items())}")
    return next(iter(counts.values()))


def _orders(count: int, recipe: Recipe) -> Iterator[npt.NDArray[np.int64]]:
    """Shuffled batches of sample numbers, without end."""
    rng = np.random.default_rng(recipe.seed)
    while True:
        order = rng.permutation(count)
        for start in range(0, count - recipe.batch + 1, recipe.batch):
            yield order[start : start + recipe.batch]


def _channels_last(values: Tensor) -> Tensor:
    """The same values with the channels side by side: a step of a depthwise model takes a quarter less time."""
    return values.contiguous(memory_format=torch.channels_last) if values.dim() == 4 else values


def _optimizer(parameters: list[Tensor], recipe: Recipe) -> torch.optim.Optimizer:
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(
            parameters, recipe.learning_rate, momentum=0.9, nesterov=True, weight_decay=recipe.weight_decay
        )
    return torch.optim.AdamW(parameters, recipe.learning_rate, weight_decay=recipe.weight_decay)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Let PyTorch use ``count`` threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
