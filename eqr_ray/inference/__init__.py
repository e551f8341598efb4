"""Answering: the breadth engine on one device, its records and what they say. Nothing here knows Ray."""
