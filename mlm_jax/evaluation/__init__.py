"""Evaluating a model per language: held-out loss, retrieval, tagging, classification, translation."""
