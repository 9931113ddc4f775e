"""Compiled tabular Bradley-Terry fits."""
