"""Measure models on real devices and compilers, and learn an estimator from the measurements."""
