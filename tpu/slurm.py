"""Slurm: a batch script for GPU clusters; a process a GPU, which JAX joins by Slurm's own variables.

https://slurm.schedmd.com/sbatch.html
"""

from __future__ import annotations

import shlex

from mlm_jax.errors import UserError
from tpu.job import Job

SCRIPT = """\
#!/bin/bash
#SBATCH --job-name={name}
#SBATCH --nodes={nodes}
#SBATCH --ntasks-per-node={gpus}
#SBATCH --gpus-per-node={gpus}
#SBATCH --exclusive
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output={name}.%j.log
#SBATCH --signal=TERM@120
# JAX takes one GPU for each process of a node. SIGTERM comes two minutes before the end: a checkpoint is saved, and the
# job, requeued, continues from it in the same workdir.
set -euo pipefail
cd {source}
srun --kill-on-bad-exit=1 {train}
"""


def script(job: Job) -> str:
    """Return the batch script.

    Raises:
      UserError: the topology is not of GPUs, or there is a bucket, which nothing here would mount.
    """
    if job.topology.chip.platform != "gpu":
        raise UserError(f"{job.topology} is not a GPU topology", remedy="write --topology H100:16 for two nodes of eight")
    if job.bucket:
        raise UserError("a Slurm cluster has file systems that all nodes share", remedy="leave --bucket out")
    return SCRIPT.format(name=job.name, nodes=job.hosts, gpus=job.chips_per_host, source=shlex.quote(job.source),
                         train=job.train())  # fmt: skip
