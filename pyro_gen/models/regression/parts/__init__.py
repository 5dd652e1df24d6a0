"""What regressions share."""
