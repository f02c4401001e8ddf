"""Gathers what the page of a project shows."""
