"""Training with quantization in sight: leaves that hold floats and act as integers, and what becomes of them."""
