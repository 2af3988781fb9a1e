"""The parts of the GPU check (../gpu_check.py)."""
