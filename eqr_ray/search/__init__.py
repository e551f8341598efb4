"""Searches: spaces, proposals, early ends, the folder of a sweep. Knows no Ray: what is tried next, what is given up
and who wins follow from files and a seed alone."""
