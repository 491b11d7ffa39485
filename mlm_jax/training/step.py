"""The training step: one jitted, donated function of (state, batch) over any mesh."""

from __future__ import annotations

import dataclasses
import functools
import zlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from ml_collections import ConfigDict

from mlm_jax import model as model_room
from mlm_jax.data.loading.batch import Batch
from mlm_jax.objectives import Context, Objective, check_parts, create_objectives
from mlm_jax.objectives.base import in_parts
from mlm_jax.objectives.multitask import UNCERTAINTY, uncertainty_penalty, uncertainty_weight
from mlm_jax.parallel.compiler_options import compiler_options
from mlm_jax.parallel.mesh import device_memory
from mlm_jax.parallel.rules import parameter_shardings
from mlm_jax.training import optimizer as optimizer_room
from mlm_jax.training import schedule
from mlm_jax.training.state import TrainState

# Share of a device's memory that logits may take if model.cross_entropy_chunk is 0. 16 rows of an H100 then stay in one
# piece (docs/training.md).
LOGITS_SHARE = 1 / 4


@dataclasses.dataclass(frozen=True, eq=False)
class Program:
    """The model, the objectives and the optimizer of a run, laid out on a mesh, ready to be compiled.

    Attributes:
      config: the config of the run.
      context: facts about the vocabulary.
      languages: language codes in index order.
      mesh: devices.
      graphdef: the model without its parameters.
      axes: logical axes of its parameters, a tree of tuples like that of the parameters.
      objectives: {task: objective}.
      transformation: the optimizer.
      learning_rate: step → learning rate.
      task_weights: {task: step → weight in the total loss}, of the tasks whose weight is not learned.
      state: ``TrainState`` of ``ShapeDtypeStruct`` with shardings: the layout for initialising, restoring and compiling.
      initialise: seeded, jitted: () → ``TrainState`` laid out on the mesh.
      rope_bases: bases of the rotary positions (``rope_theta``, ``local_rope_theta``) if a curriculum phase changes them;
        None: those of the config.
    """

    config: ConfigDict
    context: Context
    languages: tuple[str, ...]
    mesh: Mesh
    graphdef: Any
    axes: Any
    objectives: dict[str, Objective]
    transformation: optax.GradientTransformation
    learning_rate: Callable[[Any], Any]
    task_weights: dict[str, Callable[[Any], Any]]
    state: TrainState
    initialise: Callable[[], TrainState]
    rope_bases: tuple[float, float] | None = None

    def model(self, params: Any) -> Any:
        """Return the model with these parameters."""
        return model_room.merge(self.graphdef, params, rope_bases=self.rope_bases)

    def with_rope_bases(self, bases: tuple[float, float]) -> Program:
        """Return the program of a curriculum phase whose rotary positions have these bases.

        Raises:
          UserError: from :meth:`model`, if the model has no RoPE.
        """
        same = bases == (self.config.model.rope_theta, self.config.model.local_rope_theta)
        return dataclasses.replace(self, rope_bases=None if same else bases)


def build_program(
    config: ConfigDict,
    context: Context,
    languages: tuple[str, ...],
    mesh: Mesh,
    *,
    labels: dict[str, int] | None = None,
) -> Program:
    """Build a run's program; allocates nothing.

    Args:
      config: the config of the run.
      context: facts about the vocabulary.
      languages: language codes in index order.
      mesh: devices, real or of a topology.
      labels: {task: number of labels} of its classification tasks.

    Raises:
      UserError: the config names something that does not exist, or has values that do not fit each other.
    """
    objectives = create_objectives(config.tasks)
    check_parts(objectives, config.model)

    def create(key: jax.Array) -> tuple[Any, Any]:
        return model_room.create(
            config, vocabulary_size=context.vocabulary_size, languages=languages, labels=labels or {}, seed=key
        )

    graphdef, abstract_params, axes = model_room.abstract(
        config, vocabulary_size=context.vocabulary_size, languages=languages, labels=labels or {}
    )
    transformation = optimizer_room.create(config.optimizer, config.steps, abstract_params, axes, config.curriculum)
    params_shardings = parameter_shardings(axes, abstract_params, mesh)
    whole = NamedSharding(mesh, P())

    def initialise(seed: Any) -> TrainState:
        params = create(jax.random.wrap_key_data(seed))[1]
        zero = jnp.zeros((), jnp.int32)
        window = {task: _empty_window(objective, context) for task, objective in objectives.items()}
        average = params if config.training.ema else {}
        memories = {task: objective.initial_memory(config.model.width) for task, objective in objectives.items()}
        extras = {task: memory for task, memory in memories.items() if memory is not None}
        return TrainState(
            step=zero,
            params=params,
            optimizer_state=transformation.init(params),
            average=average,
            extras=extras,
            window=window,
            gradient_norm=jnp.zeros((), jnp.float32),
            skipped=zero,
            first_skipped=zero - 1,
        )

    seed = key_data(config.seed)
    abstract = jax.eval_shape(initialise, seed)
    shardings: Any = jax.tree.map(lambda _: whole, abstract)._replace(
        params=params_shardings,
        optimizer_state=optimizer_room.optimizer_state_shardings(transformation, abstract_params, params_shardings),
        average=params_shardings if config.training.ema else {},
    )
    state = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), abstract, shardings)
    context = dataclasses.replace(context, logits_bytes=device_memory(mesh) * LOGITS_SHARE)
    return Program(
        config=config,
        context=context,
        languages=languages,
        mesh=mesh,
        graphdef=graphdef,
        axes=axes,
        objectives=objectives,
        transformation=transformation,
        learning_rate=schedule.learning_rate(config.optimizer, config.steps, config.curriculum),
        task_weights={
            task: schedule.piecewise_linear(entry.get("weight", 1.0))
            for task, entry in config.tasks.items()
            if entry.get("weight") != UNCERTAINTY
        },
        state=state,
        initialise=functools.partial(jax.jit(initialise, out_shardings=shardings), seed),
    )


def key_data(seed: int) -> np.ndarray:
    """Return the data of a seed's key. It is an argument of programs, so that runs with other seeds share compiled programs."""
    return np.asarray(jax.random.key_data(jax.random.key(seed)))


def make_train_step(
    program: Program, *, objectives: dict[str, Objective] | None = None
) -> Callable[[TrainState, Batch], TrainState]:
    """Return the jitted step; its first argument is donated.

    The seed and the highest learning rate are arguments of the compiled program: trials that differ in them share it.

    Args:
      program: the program of the run.
      objectives: {task: objective} of a curriculum phase, if they differ from the program's.
    """
    config, mesh = program.config, program.mesh
    objectives = objectives or program.objectives
    gradients = gradient_function(program, objectives)
    axes_of = optimizer_room.axes_by_path(program.axes)
    frozen = jax.tree.leaves(optimizer_room.frozen_parameters(config.optimizer, program.state.params))

    def averaged(average: Any, params: Any, present: Any) -> Any:
        """Move the average towards the parameters, except weights whose language is absent from the batch."""

        def follow(a: jax.Array, p: jax.Array, here: jax.Array) -> jax.Array:
            # In this form, the average of a parameter that does not change is exactly that parameter.
            return jnp.where(optimizer_room.spread(here, a), a + (1 - config.training.ema) * (p - a), a)

        return jax.tree.map(follow, average, params, present) if config.training.ema else {}

    def step(state: TrainState, batch: Batch, seed: Any, peak: Any) -> TrainState:
        key = jax.random.fold_in(jax.random.wrap_key_data(seed), state.step)
        grads, (metrics, extras) = gradients(state.params, batch, key, state.step, state.extras)
        with jax.named_scope("optimizer"):
            # Frozen parameters are left out of the norm, so that the compiler can leave out their gradients.
            norm = optax.global_norm([g for g, is_frozen in zip(jax.tree.leaves(grads), frozen) if not is_frozen])
            finite = jnp.isfinite(norm)
            before = at_step(state.optimizer_state, state.step)
            with_peak = optimizer_room.create(
                config.optimizer, config.steps, program.state.params, program.axes, config.curriculum, peak
            )
            updates, optimizer_state = with_peak.update(grads, before, state.params)
            params = optax.apply_updates(state.params, updates)
            average = averaged(state.average, params, optimizer_room.present_groups(grads, axes_of))
        changed = state._replace(
            params=params,
            optimizer_state=optimizer_state,
            average=average,
            extras=extras,
            window=jax.tree.map(jnp.add, state.window, metrics),
        )
        # A step whose gradient is not finite changes nothing but the counters below; the loop then stops or continues.
        kept = jax.tree.map(lambda new, old: jnp.where(finite, new, old), changed, state)
        return kept._replace(
            step=state.step + 1,
            gradient_norm=norm,
            skipped=state.skipped + ~finite,
            first_skipped=jnp.where(~finite & (state.first_skipped < 0), state.step + 1, state.first_skipped),
        )

    jitted = jax.jit(
        step,
        donate_argnums=0,
        out_shardings=jax.tree.map(lambda leaf: leaf.sharding, program.state),
        compiler_options=compiler_options(mesh),
    )

    constants = (key_data(config.seed), np.float32(config.optimizer.learning_rate))

    def run(state: TrainState, batch: Batch) -> TrainState:
        with jax.set_mesh(mesh):
            return jitted(state, batch, *constants)

    def lower(state: TrainState, batch: Batch) -> Any:
        with jax.set_mesh(mesh):
            return jitted.lower(state, batch, *constants)

    run.lower = lower  # type: ignore[attr-defined]
    return run


def gradient_function(program: Program, objectives: dict[str, Objective]) -> Callable:
    """Return a function (params, batch, key, step, extras) → (gradients, ({task: metrics}, extras)) of the global batch.

    Random numbers are drawn and weights 1/N_l are computed for the global batch first. Then additive objectives go through
    the model in microbatches, whose losses and gradients add up to exactly those of the global batch.
    """
    context, parts = program.context, program.config.training.microbatches
    whole = [task for task, objective in objectives.items() if not objective.additive]
    additive = [task for task, objective in objectives.items() if objective.additive]
    dropout = program.config.model.dropout > 0

    def weighted(
        params: Any,
        tasks: list[str],
        examples: dict,
        extras: dict,
        lambdas: dict,
        key: jax.Array,
        parts: int,
        first: bool,
    ) -> tuple[jax.Array, tuple[dict, dict]]:
        model = program.model(params)
        total = uncertainty_penalty(params.get("uncertainty", {})) if first else jnp.zeros((), jnp.float32)
        metrics: dict[str, Any] = {}
        remembered: dict[str, Any] = {}
        for task in tasks:
            task_key = jax.random.fold_in(key, zlib.crc32(task.encode())) if dropout else None
            given = (model, examples[task], context, task_key)
            if objectives[task].additive:
                loss, metrics[task] = objectives[task].loss(*given)
            else:
                loss, metrics[task], memory = objectives[task].whole_loss(*given, parts, extras.get(task))
                remembered |= {} if memory is None else {task: memory}
            total += loss * (lambdas[task] if task in lambdas else uncertainty_weight(params["uncertainty"][task]))
        return total, (metrics, remembered)

    value_and_gradient = jax.value_and_grad(weighted, has_aux=True)

    def gradients(params: Any, batch: Batch, key: jax.Array, step: jax.Array, extras: dict) -> tuple[Any, Any]:
        mask_key, dropout_key = jax.random.split(key)
        examples = {
            task: objective.at_step(step).prepare(
                batch[task], jax.random.fold_in(mask_key, zlib.crc32(task.encode())), context
            )
            for task, objective in objectives.items()
        }
        lambdas = {task: weight(step) for task, weight in program.task_weights.items()}
        if parts == 1:
            (_, found), grads = value_and_gradient(
                params, [*objectives], examples, extras, lambdas, dropout_key, 1, True
            )
            return grads, found
        (_, found), grads = value_and_gradient(params, whole, examples, extras, lambdas, dropout_key, parts, True)
        if not additive:
            return grads, found
        split = {task: in_parts(examples[task], parts, objectives[task].same_language_rows) for task in additive}

        def one_part(carry: Any, part: Any) -> tuple[Any, dict]:
            piece, index = part
            part_key = jax.random.fold_in(dropout_key, index)
            (_, (measured, _)), part_grads = value_and_gradient(
                params, additive, piece, {}, lambdas, part_key, parts, False
            )
            return jax.tree.map(jnp.add, carry, part_grads), measured

        grads, stacked = jax.lax.scan(one_part, grads, (split, jnp.arange(parts)))
        metrics, remembered = found
        return grads, (metrics | jax.tree.map(lambda x: x.sum(axis=0), stacked), remembered)

    return gradients


def at_step(optimizer_state: Any, step: jax.Array) -> Any:
    """Return the optimizer's state with the run's step as the step of the learning rate, which counts skipped steps too."""

    def is_schedule(path: Any, _: Any) -> bool:
        return getattr(path[-1], "tuple_name", "") == "ScaleByScheduleState"

    return optax.tree_utils.tree_set(optimizer_state, is_schedule, count=step)


def empty_window(program: Program) -> Any:
    """Return the zeros that ``TrainState.window`` begins with after each log line."""
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype, device=leaf.sharding), program.state.window)


def _empty_window(objective: Objective, context: Context) -> dict:
    zeros = jnp.zeros(context.languages, jnp.float32)
    return {name: (zeros, zeros) for name in objective.metric_names}
