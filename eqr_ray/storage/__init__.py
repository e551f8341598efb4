"""Files: atomic writes, run directories, the run log, progress and remote copies."""
