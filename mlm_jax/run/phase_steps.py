"""The compiled step of each curriculum phase."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from mlm_jax.data.loading import curriculum
from mlm_jax.data.loading.batch import Batch
from mlm_jax.data.loading.loader import Loader
from mlm_jax.training.cost import batch_shapes, in_phase
from mlm_jax.training.state import TrainState
from mlm_jax.training.step import Program, make_train_step


class CompiledPhases:
    """The compiled step of each curriculum phase; a phase's settings are constants of its compiled step."""

    def __init__(self, program: Program, loader: Loader):
        self.program, self.loader = program, loader
        self.compiled: dict[Any, Callable[[TrainState, Batch], TrainState]] = {}
        self.seen: set[Any] = set()
        self.compiler = ThreadPoolExecutor(1, "compiler")
        self.under_way: Future[Any] | None = None

    def begin(self, step: int) -> None:
        """Begin to compile the step after ``step`` steps in a thread, so that evaluation can compile its programs meanwhile."""
        run = self._function(step)[0]
        batch = batch_shapes(self.program, curriculum.at(self.loader.phases, step))
        # jax.jit keeps the program that is compiled here, and uses it when it is called with arrays of the same shapes.
        self.under_way = self.compiler.submit(lambda: run.lower(self.program.state, batch).compile())  # type: ignore[attr-defined]

    def wait(self) -> None:
        """Wait for the compilation that :meth:`begin` began, and raise its error, if there is one."""
        under_way, self.under_way = self.under_way, None
        if under_way is not None:
            under_way.result()

    def end(self) -> None:
        """Wait for the thread: XLA cannot be interrupted, and a process that ends while XLA compiles may crash."""
        self.compiler.shutdown()

    def step_of(self, step: int) -> tuple[Callable[[TrainState, Batch], TrainState], bool]:
        """Return the function of the step after ``step`` steps, and whether it has not run with its shapes before."""
        run, shapes = self._function(step)
        is_new = shapes not in self.seen
        self.seen.add(shapes)
        return run, is_new

    def _function(self, step: int) -> tuple[Callable[[TrainState, Batch], TrainState], Any]:
        """Return the function of the step after ``step`` steps, and a key of the shapes with which it is compiled."""
        phase = curriculum.at(self.loader.phases, step)
        objectives = {task: in_phase(objective, phase) for task, objective in self.program.objectives.items()}
        key = (tuple(objectives.items()), phase.rope_bases)
        if key not in self.compiled:
            self.compiled[key] = make_train_step(self.program.with_rope_bases(phase.rope_bases), objectives=objectives)
        return self.compiled[key], (key, tuple(sorted(phase.lengths.items())), tuple(sorted(phase.task_rows.items())))
