"""Prepares planned cases for painting: lesions in their hosts, what is painted of them, and how bright and rough."""
