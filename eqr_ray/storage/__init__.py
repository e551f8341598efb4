"""Files: atomic writes, run directories, the run log, progress, status and remote copies."""
