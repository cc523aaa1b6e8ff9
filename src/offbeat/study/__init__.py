"""Blind studies with people: design, storage, statistics, reports."""
