"""Suite `faults`: what goes wrong between processes, and what must hold all the same."""
