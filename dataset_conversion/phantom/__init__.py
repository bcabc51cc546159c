"""Generates the chest phantom."""
