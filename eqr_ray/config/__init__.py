"""Configuration: the options of every command, their checks, and the command line."""
