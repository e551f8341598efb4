"""Pictures drawn from the records of runs."""
