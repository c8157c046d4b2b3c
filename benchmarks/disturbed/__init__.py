"""Parts of `disturbed_rounds.py`: the processes of a run, what befalls them, and what the run's log says afterwards."""
