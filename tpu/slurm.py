"""Slurm: a batch script for GPU clusters, with one process for each GPU; JAX connects them by Slurm's variables.

https://slurm.schedmd.com/sbatch.html
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from mlm_jax.common.errors import UNFINISHED, UserError
from tpu.job import Job

SCRIPT = """\
#!/bin/bash
#SBATCH --job-name={name}
#SBATCH --nodes={nodes}
#SBATCH --ntasks-per-node={gpus}
#SBATCH --gpus-per-node={gpus}
{share}
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output={name}.{number}.log
#SBATCH --signal=TERM@120
# JAX takes one GPU for each process of a node. Two minutes before the end of the job's time Slurm sends SIGTERM to the
# run, as it does before a preemption that leaves it time. A run that a signal stops saves a checkpoint and ends with exit
# code {unfinished}; the job, requeued, continues from it in the same workdir. Slurm itself requeues jobs of nodes that fail.
set -o pipefail
cd {source} || exit 1
{setup}command -v mlm-jax > /dev/null || {{ echo "mlm-jax is not on PATH: give --setup 'source …/bin/activate'"; exit 2; }}
driver=$(nvidia-smi --query-gpu=driver_version --format=csv,noheader | head -n 1)
echo "$SLURM_JOB_NODELIST, driver $driver (CUDA 13 needs 580 or later: 'mlm_jax[cuda]'; older ones 'jax[cuda12]')"
{environment}{trials}
# A process that fails ends the others itself; after being stopped, all of them still save.
srun --kill-on-bad-exit=0 --wait=600 {bind} "${{train[@]}}"
code=$?
if [ "$code" = {unfinished} ]; then
  exec scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
"""


NCCL = "export NCCL_DEBUG=${NCCL_DEBUG:-WARN}  # its errors name the network interface\n"


def script(jobs: Sequence[Job]) -> str:
    """Return the batch script of a job, or the one of a job array if there are several.

    Args:
      jobs: one job, or several that differ only in their workdirs and settings.

    Raises:
      UserError: the topology has no GPUs, or a bucket is given, which Slurm does not mount.
    """
    job = jobs[0]
    if not job.is_gpu:
        raise UserError(
            f"{job.topology} is not a GPU topology", remedy="write --topology H100:16 for two nodes of eight"
        )
    if job.bucket:
        raise UserError("on a Slurm cluster all nodes share a file system", remedy="leave --bucket out")
    whole = job.chips_per_host == job.topology.chip.chips_per_host
    share = "#SBATCH --exclusive" if whole else f"#SBATCH --cpus-per-task={job.cpus}"
    share += f"\n#SBATCH --reservation={job.reservation}" if job.reservation else ""
    share += f"\n#SBATCH --array=0-{len(jobs) - 1}" if len(jobs) > 1 else ""
    return SCRIPT.format(
        name=job.name,
        nodes=job.hosts,
        gpus=job.chips_per_host,
        share=share,
        number="%A_%a" if len(jobs) > 1 else "%j",
        unfinished=UNFINISHED,
        source=shlex.quote(job.source),
        setup=f"{job.setup}\n" if job.setup else "",
        environment=NCCL + job.exports() + needed(job),
        trials=trials(jobs),
        # By default srun gives each task one core; since Slurm 22.05 it does not inherit this option from sbatch.
        bind="--cpu-bind=none" if whole else f"--cpus-per-task={job.cpus}",
    )


def needed(job: Job) -> str:
    """Return the shell lines that check that the secrets are set; sbatch passes on its own environment."""
    return "".join(f': "${{{name}:?export {name} before sbatch}}"\n' for name in job.secrets)


def trials(jobs: Sequence[Job]) -> str:
    """Return the shell lines that set ``train`` to the command of this job, or of this task of the array."""
    if len(jobs) == 1:
        return f"train=({jobs[0].train()})"
    cases = "".join(f"{number}) train=({job.train()}) ;;\n" for number, job in enumerate(jobs))
    return f'case "$SLURM_ARRAY_TASK_ID" in\n{cases}esac'


def status(job: Job) -> tuple[str, ...]:
    """Return the command that shows the job's state."""
    return "squeue", "--me", "--name", job.name


def logs(job: Job) -> tuple[str, ...]:
    """Return the command that shows the job's log as it grows."""
    return "sh", "-c", f"tail -n +1 -F {shlex.quote(job.source)}/{job.name}.*.log"


def stop(job: Job) -> tuple[str, ...]:
    """Return the command that ends the job: it gets a signal, and is killed after the cluster's KillWait."""
    return "scancel", "--me", "--name", job.name
