"""What `benchmarks/convergence.py` is made of: arms, replicas, rounds between them, and the table."""
