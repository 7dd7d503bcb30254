"""From the record to a decision. Needs the extra `analysis`."""
