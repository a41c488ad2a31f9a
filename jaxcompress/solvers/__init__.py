"""Numerics shared by the method rooms. Modules here know arrays, not trees of parameters."""
