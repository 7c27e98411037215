"""What `perf/gpu.py` is made of: figures of the torch engine on one accelerator."""
