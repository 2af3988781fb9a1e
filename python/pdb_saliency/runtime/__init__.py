"""What every program needs: files, processes, progress, isolation from the current folder. Imports nothing heavy."""
