"""The shell script of every Cloud TPU worker: it trains, and copies the worker's log into the workdir."""

from __future__ import annotations

import shlex

from tpu.job import Job

SCRIPT = """\
#!/bin/bash
# Trains on this worker. Its log is copied into the workdir once a minute and at the end, so that it outlives the machine.
cd ~/mlm_jax || exit 1
export PATH=~/venv/bin:$PATH
{environment}if [ -f ~/{name}.env ]; then . ~/{name}.env; fi
log=~/{name}.log ended=~/{name}.exit
kept={logs}/$(hostname)-$(date +%Y%m%dT%H%M%S).log
rm -f "$ended"
: > "$log"
mkdir -p {logs}
keep() {{ cp "$log" "$kept" 2>> "$log"; }}
(while sleep 60; do keep; done) & copying=$!
trap : TERM  # the machine's shutdown signals both this script and the run, which saves a checkpoint
{train} >> "$log" 2>&1 & run=$!
echo "$run" > ~/{name}.pid
wait "$run"; code=$?
while kill -0 "$run" 2> /dev/null; do wait "$run"; code=$?; done  # a signal ends the first wait early
kill "$copying"
keep
echo "$code" > "$ended"
"""


def script(job: Job) -> str:
    """Return the script, which is copied to ``~/NAME.sh`` of every worker."""
    return SCRIPT.format(name=job.name, logs=shlex.quote(job.logs), train=job.train(), environment=job.exports())


def starting(job: Job) -> str:
    """Return the shell command that starts the script, which continues when the connection ends."""
    return f"rm -f ~/{job.name}.exit && (nohup bash ~/{job.name}.sh > /dev/null 2>&1 &)"


def showing(job: Job) -> str:
    """Return the shell command that shows a worker's log as it grows, and ends with the run."""
    name = job.name
    return f"tail -n +1 -F ~/{name}.log & until [ -f ~/{name}.exit ]; do sleep 1; done; sleep 1; kill $!"


def asking(job: Job) -> str:
    """Return the shell command that prints the exit code of the run on a worker (:data:`ENDED`), and ends with the same code."""
    name = job.name
    return (
        f"timeout 120 sh -c 'until [ -f ~/{name}.exit ]; do sleep 1; done'; code=$(cat ~/{name}.exit || echo 1); "
        'echo "$(hostname): the run ended with exit code $code"; exit $code'
    )


def stopping(job: Job) -> str:
    """Return the shell command that makes the run save a checkpoint and end, and waits for the end."""
    name = job.name
    return f"kill -TERM $(cat ~/{name}.pid) && timeout 600 sh -c 'until [ -f ~/{name}.exit ]; do sleep 1; done'"


ENDED = r"the run ended with exit code (\d+)"  # the line that :func:`asking` prints, with the code


def secrets(job: Job) -> str:
    """Return the shell lines that set the secrets, for ``~/NAME.env`` of every worker.

    Raises:
      UserError: a secret is not set in the launcher's environment.
    """
    return "".join(f"export {name}={shlex.quote(value)}\n" for name, value in job.secret_values().items())
