"""Worlds with known answers, twins of known solutions, and contract checks for new parts."""
