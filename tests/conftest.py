"""For all tests: one thread for every process that computes, so that figures and times do not depend on the machine."""

import os

# Read when torch is imported, here and in every process that a test starts.
os.environ["OMP_NUM_THREADS"] = "1"
