"""Pictures drawn from records and logs."""
