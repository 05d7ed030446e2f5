"""Recognizes other programs' adapters, and makes recipes that load them."""
