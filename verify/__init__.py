"""Bring your own kernel."""
