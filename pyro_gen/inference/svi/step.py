r"""One training step as a graph: loss and gradients as a pure function of parameters and data, and the optimiser.

A Pyro program is a Python function; most of a small model's step is spent in Python. A recorder runs the program once
and records what happened to the tensors: guide, model, log-densities and the backward pass. The recording has no Pyro
in it, and a compiler makes it fast, together with the optimiser. A recording is only as good as its promise that the
next run would do the same, so it is compared with the program itself, at other parameters and with other draws, before
it is used.
"""

import functools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, fx, nn

from pyro_gen._internals import compile_for, own_buffers, version_of
from pyro_gen._random import seeded
from pyro_gen.density import first_line, rows_of
from pyro_gen.density.base import MOST_COMPILED
from pyro_gen.density.graphs import compiler_available, record
from pyro_gen.density.lean import lean
from pyro_gen.density.loops import roll
from pyro_gen.density.missing import LatentMissing
from pyro_gen.density.validation import no_validation
from pyro_gen.inference.objectives import Objective, Player
from pyro_gen.inference.svi.adam import RecordableAdam
from pyro_gen.observation import assume_missing
from pyro_gen.program import Program, data_size

__all__ = ["GradientStep", "LossModule", "NotTraceableError", "compiler_available"]


class NotTraceableError(Exception):
    """A program cannot be recorded as a graph; the message says why."""


class LossModule(nn.Module):
    """Program and objective as one module, whose forward is the loss of a player of the game.

    Arguments:
        program: The program.
        objective: The objective.
        size: The number of rows of the full data set.
        missing: Whether the data may have missing entries.
        latent: What of that is latent variables; by default nothing.
        player: Whose loss it is; by default the objective's own, which is of all parameters.

    Attributes:
        own: The parameters that the player moves, by name.
        others: All other parameters that are moved, by name.
    """

    def __init__(
        self,
        program: Program,
        objective: Objective,
        size: int,
        missing: bool,
        latent: LatentMissing | None = None,
        player: Player | None = None,
    ) -> None:
        super().__init__()
        self.program, self.size, self.missing = program, size, missing
        if any(part is objective for part in program.modules()):
            self.__dict__["objective"] = objective  # what a functional call swaps under two names is not put back
        else:
            self.objective = objective
        self.latent = LatentMissing(program, (), {}) if latent is None else latent
        self.name = "" if player is None else player.name
        self.loss: Callable[..., Tensor] = objective.loss if player is None else player.loss
        moved = {n: p for n, p in self.named_parameters() if p.requires_grad}
        mine = {id(p) for p in (moved.values() if player is None else player.parameters)}
        self.own = {n: p for n, p in moved.items() if id(p) in mine}
        self.others = {n: p for n, p in moved.items() if id(p) not in mine}

    def forward(self, batch: Sequence[Any], kl_weight: Tensor) -> Tensor:
        """Computes the loss per datum.

        Arguments:
            batch: The data :math:`(n, *)` of a minibatch, and its context.
            kl_weight: A scalar.

        Returns:
            A scalar, the negative bound in nats per datum.
        """
        options = {"kl_weight": kl_weight} if self.objective.anneals else {}
        known = assume_missing(self.missing, of=batch)
        with data_size(self.size), known, self.latent.again():
            return self.loss(self.program, *batch, **options) / self.size


# Of the player's parameters, then those of the others, the state, a minibatch with its context, and the KL weight.
StepFunction = Callable[..., list[Tensor]]


class GradientStep:
    """Takes steps that lower a :class:`LossModule`, through a graph where that is possible.

    It moves the player's own parameters. Those of the others are inputs of the graph: they move too. So
    are the buffers of the objective, persistent chains or running averages, and what the loss makes of them is written
    back.

    Arguments:
        module: The loss.
        optimizer: Adam or AdamW, of the player's own parameters.
        clip_norm: The greatest norm of the gradient, ``None`` for no clipping.
        mode: ``"eager"``, ``"traced"`` or ``"compiled"``.
    """

    def __init__(
        self, module: LossModule, optimizer: torch.optim.Optimizer, clip_norm: float | None, mode: str
    ) -> None:
        self.module, self.clip_norm, self.mode = module, clip_norm, mode
        if mode != "eager":
            _require_pure(module)
        self.parameters, self.others = list(module.own.values()), list(module.others.values())
        self.adam = RecordableAdam(optimizer)
        self._graphs: dict[tuple[Any, ...], StepFunction] = {}
        self._functions: dict[tuple[Any, ...], StepFunction] = {}  # the graphs as functions, for steps that run them
        self._compiled: dict[tuple[Any, ...], StepFunction] = {}
        self.operations = 0  # of the longest recording
        self._unrecorded: set[tuple[Any, ...]] = set()  # shapes of batches, a short last one say, that have no graph
        self._written: list[str] = []  # the state that the loss changes
        self._has_state = any(True for _ in module.objective.buffers())  # made in its prepare, if at all

    def __call__(self, batch: Sequence[Any], kl_weight: Tensor) -> tuple[float, float]:
        """Moves the player's parameters by what a minibatch says, unless its loss or gradient is not finite.

        Arguments:
            batch: The data :math:`(n, *)` of a minibatch, and its context.
            kl_weight: A scalar.

        Returns:
            The loss per datum in nats before the step, and the norm of its gradient before clipping.
        """
        with torch.no_grad():
            step = self._compiled.get(_key(batch))
            if step is not None:
                self.adam.set_rate()
                figures: Tensor = step(*self._inputs(), *_tensors(batch), kl_weight)[0]
            else:
                figures = self._set_gradients(batch, kl_weight)
            loss, norm = figures.tolist()
            finite = math.isfinite(loss) and math.isfinite(norm)
            if step is None and finite:
                self.adam.step()
            elif step is not None and not finite:
                self._set_gradients(batch, kl_weight)  # by which the parameters are found that are to be named
        return loss, norm

    def _set_gradients(self, batch: Sequence[Any], kl_weight: Tensor) -> Tensor:
        """Sets the gradients of the player's parameters, and returns the loss and the norm of the gradient."""
        graph = None if self.mode == "eager" else self._graph_of_any(batch, kl_weight)
        if graph is None:
            figures, *gradients = self._eager(batch, kl_weight)
        else:
            state = self._state()
            figures, *rest = graph(*self.parameters, *self.others, *state.values(), *_tensors(batch), kl_weight)
            gradients, written = rest[: len(self.parameters)], rest[len(self.parameters) :]
            _set([state[n] for n in self._written], written)
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient
        return figures

    def prepare(self, batch: Sequence[Any]) -> None:
        """Records the step for batches of this shape, and compiles it in that mode.

        Raises:
            NotTraceableError: The program cannot be recorded or compiled.
        """
        if self.mode != "eager":
            with torch.no_grad():
                self._graph(batch, torch.ones((), device=batch[0].device))

    def compile(self, batch: Sequence[Any]) -> None:
        """Compiles the step that was recorded for batches of this shape.

        Raises:
            NotTraceableError: It cannot be compiled; it goes on as it is.
        """
        with torch.no_grad(), seeded(0):
            kl_weight = torch.ones((), device=batch[0].device)
            self._compile(self._graph(batch, kl_weight), batch, kl_weight)
        self._functions.clear()
        self.mode = "compiled"

    def _inputs(self) -> list[Tensor]:
        """What a compiled step takes before the batch, and moves."""
        return [*self.parameters, *self.adam.state, *self.others, *self._state().values()]

    def _state(self) -> dict[str, Tensor]:
        """The buffers of the objective, by their names in the module."""
        if not self._has_state:
            return {}
        own = {id(b) for b in self.module.objective.buffers()}
        return {n: b for n, b in self.module.named_buffers() if id(b) in own}

    def _eager(self, batch: Sequence[Any], kl_weight: Tensor) -> list[Tensor]:
        with torch.enable_grad(), no_validation():
            return self._differentiate(self.module(batch, kl_weight), self.parameters)

    def _functional(self, like: Sequence[Any], *flat: Tensor) -> list[Tensor]:
        """The step as a function of tensors, see :data:`StepFunction`; it returns the state that it changes too.

        What is no tensor in a batch is that of ``like``.
        """
        own, others, state = (tuple(names) for names in (self.module.own, self.module.others, self._state()))
        values = dict(zip((*own, *others, *state), flat, strict=False))
        *tensors, kl_weight = flat[len(values) :]
        batch = _with(like, tensors)
        with torch.enable_grad(), no_validation():
            leaves = {n: values[n].detach().requires_grad_() for n in own}
            given = leaves | {n: values[n].detach() for n in others}
            before = {n: values[n].clone() for n in state}
            given |= before
            loss = torch.func.functional_call(self.module, given, (batch, kl_weight))
            self._written = [n for n in state if given[n] is not before[n] or version_of(before[n]) > 0]
            return [*self._differentiate(loss, list(leaves.values())), *(given[n].detach() for n in self._written)]

    def _differentiate(self, loss: Tensor, parameters: Sequence[Tensor]) -> list[Tensor]:
        gradients: Sequence[Tensor] = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
        norm = torch.stack([g.square().sum() for g in gradients]).sum().sqrt()
        if self.clip_norm is not None:
            factor = (self.clip_norm / norm.clamp(min=1e-12)).clamp(max=1.0)
            gradients = [g * factor for g in gradients]
        return [torch.stack([loss.detach(), norm.detach().to(loss.dtype)]), *(g.detach() for g in gradients)]

    def _graph_of_any(self, batch: Sequence[Any], kl_weight: Tensor) -> StepFunction | None:
        """The graph of a batch; ``None`` where others have one, and batches of this shape cannot be recorded."""
        key = _key(batch)
        if key in self._unrecorded:
            return None
        if key in self._functions:
            return self._functions[key]
        try:
            graph = self._graph(batch, kl_weight)
            self._functions[key] = lean(graph) if isinstance(graph, fx.GraphModule) else graph
            return self._functions[key]
        except NotTraceableError:
            if not self._graphs:
                raise
            self._unrecorded.add(key)
            return None

    def _graph(self, batch: Sequence[Any], kl_weight: Tensor) -> StepFunction:
        key = _key(batch)
        if key not in self._graphs:
            first = not self._graphs
            with seeded(0):  # the run that is recorded must not use up the draws of the steps
                inputs = (*self.parameters, *self.others, *self._state().values(), *_tensors(batch), kl_weight)
                with _constant_buffers(self.module):
                    graph = _record(functools.partial(self._functional, batch), inputs)
                if first:
                    self._verify(graph, batch, kl_weight)
                self._graphs[key], self.operations = graph, max(self.operations, len(graph.graph.nodes))
                if self.mode == "compiled" and first:  # the short last batch of an epoch is not worth it
                    self._compile(graph, batch, kl_weight)
        return self._graphs[key]

    def _compile(self, graph: StepFunction, batch: Sequence[Any], kl_weight: Tensor) -> None:
        """Compiles a recording: the bodies of its loops if it is long, else together with the optimiser."""
        if self.operations <= MOST_COMPILED:
            self._compiled[_key(batch)] = self._compile_whole(graph, *_tensors(batch), kl_weight)
            return
        rolled = roll(cast("fx.GraphModule", graph))
        if rolled is None or rolled.operations > MOST_COMPILED:
            raise NotTraceableError(f"its graph of {self.operations} operations is too long, and folds into no loop")
        inputs = (*self.parameters, *self.others, *self._state().values(), *_tensors(batch), kl_weight)
        self._graphs[_key(batch)] = _checked(graph, rolled.compiled, inputs)

    def _compile_whole(self, graph: StepFunction, *batch: Tensor) -> StepFunction:
        """Compiles the gradient and what the optimiser does with it."""
        own, others, state = len(self.parameters), len(self.others), self._state()
        places = [list(state).index(name) for name in self._written]

        def step(*flat: Tensor) -> list[Tensor]:
            parameters, rest = flat[:own], flat[own + len(self.adam.state) :]
            figures, *results = graph(*parameters, *rest)
            self.adam.move(
                parameters, flat[own : own + len(self.adam.state)], results[:own], torch.isfinite(figures).all()
            )
            _set([rest[others + i] for i in places], results[own:])
            return [figures]

        self.adam.set_rate()
        inputs = [*self._inputs(), *batch]
        # Moments, not parameters: their first step is by the sign of the gradient, of one that is zero by chance too.
        moments_on = slice(own, None)
        return _checked(step, lambda: compile_for(record(step, *_copies(inputs)), inputs), inputs, moments_on)

    def _verify(self, traced: StepFunction, batch: Sequence[Any], kl_weight: Tensor) -> None:
        """Compares recording and program on permuted rows, at moved parameters and another ``kl_weight``.

        The program runs as it does in eager mode, with the moved values in its own parameters: parameters that are
        used behind the module's back, in a closure say, are constants of the recording, and must be found out.
        """
        order = torch.randperm(len(batch[0]), device=batch[0].device)
        x, *context = batch
        other, weight = [x[order], *rows_of(x, tuple(context), order)], 0.5 * kl_weight
        parameters = (*self.parameters, *self.others)
        original, state = _copies(parameters), _copies(self._state().values())
        scales = [torch.where((size := p.abs().mean()) > 0, size, 1.0) for p in original]  # what is zero moves too
        moved = [p + 0.01 * s * torch.randn_like(p) for p, s in zip(original, scales, strict=True)]
        torch.manual_seed(1)
        try:
            _set(parameters, moved)
            expected = self._eager(other, weight)
            reached = {n: b.clone() for n, b in self._state().items()}
        finally:
            _set(parameters, original)
            _set(self._state().values(), state)
        torch.manual_seed(1)
        results = traced(*moved, *state, *_tensors(other), weight)
        written = dict(zip(reached, state, strict=True))
        written |= zip(self._written, results[len(expected) :], strict=True)
        pairs = [*zip(expected, results, strict=False), *((reached[n], written[n]) for n in reached)]
        _require_equal(pairs, "its recording gives another result than the program, on other data")


def _checked(
    step: StepFunction, compile: Callable[[], StepFunction], inputs: Sequence[Tensor], moved: slice = slice(0)
) -> StepFunction:
    """Compiles a step, and compares what it returns, and makes of some of its inputs, with the step itself.

    Raises:
        NotTraceableError: The compiler fails, or the results differ.
    """
    results = []
    try:
        compiled = compile()
        for function in (step, compiled):
            copies = _copies(inputs)
            torch.manual_seed(1)
            returned = function(*copies)
            results.append([*copies[moved], *returned])
    except Exception as error:  # whatever the compiler of this machine makes of it
        raise NotTraceableError(f"the compiler failed: {first_line(error)}") from error
    _require_equal(zip(*results, strict=True), "the compiled step gives another result than the recorded one")
    return compiled


def _copies(tensors: Iterable[Tensor]) -> list[Tensor]:
    return [t.clone() for t in tensors]


def _require_equal(pairs: Iterable[tuple[Tensor, Tensor]], otherwise: str) -> None:
    for a, b in ((a.float(), b.float()) for a, b in pairs if a.numel()):
        finite = a.isfinite()  # what is not, is not in both
        scale = torch.where(finite, a.abs(), 0.0).max().clamp(min=1e-6)
        if not bool(torch.where(finite, (a - b).abs() <= 1e-3 * scale, ~b.isfinite()).all()):
            raise NotTraceableError(otherwise)


def _key(batch: Sequence[Any]) -> tuple[Any, ...]:
    """What a recording holds for."""
    return tuple((b.shape, b.stride()) if isinstance(b, Tensor) else id(b) for b in batch)


def _set(tensors: Iterable[Tensor], values: Iterable[Tensor]) -> None:
    for tensor, value in zip(tensors, values, strict=True):
        tensor.copy_(value)


def _require_pure(module: LossModule) -> None:
    if not module.objective.traceable:
        raise NotTraceableError(
            f"{type(module.objective).__name__} branches on values or keeps state outside of its buffers"
        )


@contextmanager
def _constant_buffers(module: nn.Module) -> Iterator[None]:
    """Raises if the block changes a buffer, which a recording would do never or from the same value each time.

    The buffers are restored, so that the steps start from what they were.
    """
    before = {n: (b, b.clone()) for n, b in module.named_buffers()}
    changed: list[str] = []
    try:
        yield
    finally:
        changed = [n for n, b in module.named_buffers() if b is not before[n][0] or not torch.equal(b, before[n][1])]
        for name in changed:
            tensor, value = before[name]
            owner, _, attribute = name.rpartition(".")
            own_buffers(module.get_submodule(owner))[attribute] = tensor.copy_(value)
    if changed:
        raise NotTraceableError(f"each step changes the buffer '{changed[0].removeprefix('program.')}'")


def _tensors(batch: Sequence[Any]) -> list[Tensor]:
    return [part for part in batch if isinstance(part, Tensor)]


def _with(batch: Sequence[Any], tensors: Sequence[Tensor]) -> list[Any]:
    """A batch with other tensors in it."""
    left = iter(tensors)
    return [next(left) if isinstance(part, Tensor) else part for part in batch]


def _record(function: StepFunction, inputs: Sequence[Tensor]) -> fx.GraphModule:
    try:
        return record(function, *inputs)
    except Exception as error:  # any program may fail here, in any way: it then runs as the Python that it is
        raise NotTraceableError(first_line(error)) from error
