"""Integer-only inference: functions whose arithmetic is in integers (Jacob et al., 2018)."""
