"""The story of a run: its loop, what it logs, sweeps of runs, measuring a run's checkpoint."""
