"""A training run: its loop, metrics and log lines, sweeps of runs, evaluating a run's checkpoint."""
