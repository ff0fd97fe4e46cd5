"""Randomised smoothing: classifiers whose answers are certified within a radius."""
