"""A volunteer's computer for the desktop app's benchmarks: a screen, a server beside it, what processes cost."""
