"""Annotators without a person: they paint slices of volumes whose truth is known."""
