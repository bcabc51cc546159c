"""Draws the chest phantom."""
