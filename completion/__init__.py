"""The one path of a completion: trigger, prompt, decode, shape, confidence."""
