"""What every program needs: console, files, processes, isolation from the current folder. Imports nothing heavy."""
