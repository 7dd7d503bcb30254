"""Local, opt-out measurement of what was offered, accepted and retained."""
